# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and SIGHUP end a command, and its files are put away; they wait for the end of an import."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Self

from gantk.cli.watchdog import Watchdog

_AGAIN_S = 0.05
_IMPORT = "<frozen importlib._bootstrap"  # How the files of Python's own import system begin.


class Termination:
    """While open, SIGTERM and SIGHUP end a command as Ctrl-C does: files are put away.

    Schedulers and containers send the first, a terminal that is closed the second.

    Where a library computes for long after a signal, the process ends without it: see `gantk.cli.watchdog`.

    What is raised while a library is imported, the library may take for a fault of its own and go on without: a signal
    that comes then comes again when the import is over. A second Ctrl-C does not wait.
    """

    def __init__(self) -> None:
        self.came: int | None = None
        """Which of the two did."""
        self._before: dict[int, Any] = {}
        self._again: threading.Timer | None = None
        self._watchdog: Watchdog | None = None

    def __enter__(self) -> Self:
        # A handler of whoever called stays; and outside the main thread Python allows none.
        if threading.current_thread() is threading.main_thread():
            self._watchdog = Watchdog(lambda number: signal.getsignal(number) == self._on_signal)
            for number, usual in (
                (signal.SIGTERM, signal.SIG_DFL),
                (signal.SIGHUP, signal.SIG_DFL),
                (signal.SIGINT, signal.default_int_handler),
            ):
                if signal.getsignal(number) == usual:
                    self._before[number] = signal.signal(number, self._on_signal)
        return self

    def __exit__(self, *_: object) -> None:
        self._cancel()
        if self._watchdog is not None:
            self._watchdog.close()
        # Once it came, the process is about to end, and nothing shall change its status.
        if self.came is None:
            for number, handler in self._before.items():
                signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        assert self._watchdog is not None
        self._watchdog.hear()
        hurried = number == signal.SIGINT and self._again is not None
        if _is_importing(frame) and not hurried:
            if self._again is None:
                self._again = threading.Timer(_AGAIN_S, self._send, (number,))
                self._again.daemon = True
                self._again.start()
            return
        self._cancel()
        if number != signal.SIGINT:
            # timeout(1) sends it twice, to us and to our group: the second must not interrupt the putting away.
            signal.signal(number, signal.SIG_IGN)
            self.came = number
        if number == signal.SIGHUP:
            from gantk.train.interrupt import leave_terminal

            leave_terminal()
        raise KeyboardInterrupt

    def _cancel(self) -> None:
        if self._again is not None:
            self._again.cancel()

    def _send(self, number: int) -> None:
        self._again = None
        main = threading.main_thread().ident
        assert main is not None
        signal.pthread_kill(main, number)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported in a frame or in those that called it, up to `gantk.cli.main.main`."""
    while frame is not None and (frame.f_globals.get("__name__"), frame.f_code.co_name) != (
        "gantk.cli.main",
        "main",
    ):
        if frame.f_code.co_filename.startswith(_IMPORT):
            return True
        frame = frame.f_back
    return False

# SPDX-License-Identifier: Apache-2.0
"""Ctrl-C, SIGTERM and a terminal that is closed end a training after its step, not within it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from types import FrameType, TracebackType
from typing import Any, ClassVar

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def leave_terminal() -> None:
    """Let what is said lead nowhere where it led to a terminal that is gone: else saying it fails, and what follows."""
    for stream in (1, 2):
        try:
            os.write(stream, b"")
        except OSError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream)
            os.close(nowhere)


class Interruption:
    """While open, the first signal sets `requested`; one a second later interrupts at once.

    Outside the main thread, where Python allows no handlers, it does nothing.

    Args:
        forward: Whether to pass signals on to child processes, which then end by themselves.
    """

    ended_by: ClassVar[int | None] = None
    """SIGTERM or SIGHUP, where it came to this process while one was open: it is about to end, with its status."""

    def __init__(self, *, forward: bool = False) -> None:
        self.requested = False
        self._forward = forward
        self._first_s = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            deaf = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN  # By nohup(1).
            numbers = [number for number in _SIGNALS if number != signal.SIGHUP or not deaf]
            self._before = {number: signal.signal(number, self._on_signal) for number in numbers}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number != signal.SIGINT:
            Interruption.ended_by = number
        if number == signal.SIGHUP:
            leave_terminal()
        if self._forward:
            for child in multiprocessing.active_children():
                if child.pid is not None:
                    os.kill(child.pid, signal.SIGINT)
        elif self.requested and now - self._first_s > 1.0:
            # Nearer ones are one Ctrl-C that came twice: from the terminal and through the parent process.
            raise KeyboardInterrupt
        if not self.requested:
            self.requested, self._first_s = True, now

# SPDX-License-Identifier: Apache-2.0
"""Ends a process that was told to end and cannot, for a library computes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress

PATIENCE_S = 10.0
"""How long a library may go on after a signal. Files are then left as after any kill: whole ones, and what is swept."""


_LOOK_S = 0.02

_ours: set[int] = set()
"""What watchdogs are told by."""


class Watchdog:
    """Waits beside the main thread for signals, of which Python tells handlers only when a library has returned.

    Args:
        is_ours: Whether a signal, by its number, is still to end the process.
    """

    def __init__(self, is_ours: Callable[[int], bool]) -> None:
        self._is_ours = is_ours
        self._heard = (
            False  # No `threading.Event`, whose lock a handler that interrupts another would wait for.
        )
        self._numbers, self._told = os.pipe()
        os.set_blocking(self._told, False)
        _ours.add(self._told)
        self._before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def hear(self) -> None:
        """A handler runs: nothing keeps it from ending the process."""
        self._heard = True

    def close(self) -> None:
        """Watch no longer."""
        signal.set_wakeup_fd(self._before)
        _ours.discard(self._told)
        os.close(self._told)  # Which ends the thread.

    def _watch(self) -> None:
        while numbers := os.read(self._numbers, 64):
            # Also at first: by the end whoever had taken it over, such as a training, may have given it back.
            if self._is_ours(numbers[0]) and not self._is_heard() and self._is_ours(numbers[0]):
                with suppress(OSError):  # The terminal may be gone.
                    os.write(2, b"interrupted, while a library was computing\n")
                os._exit(128 + numbers[0])
            self._heard = False
            self._drain()
        os.close(self._numbers)

    def _is_heard(self) -> bool:
        """Whether the handler runs before patience ends."""
        end = time.monotonic() + PATIENCE_S
        while not self._heard and time.monotonic() < end:
            time.sleep(_LOOK_S)
        return self._heard

    def _drain(self) -> None:
        """Drop what came before the handler ran, which it has done for all."""
        os.set_blocking(self._numbers, False)
        with suppress(BlockingIOError):
            os.read(self._numbers, 64)
        os.set_blocking(self._numbers, True)


def _leave_to_the_parent() -> None:
    """In a process that was forked: what it is told is none of the parent's business."""
    before = signal.set_wakeup_fd(-1)
    if before not in _ours:
        signal.set_wakeup_fd(before)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_to_the_parent)

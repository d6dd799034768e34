# SPDX-License-Identifier: Apache-2.0
"""Ends a process that was told to end and cannot, for a library computes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from contextlib import suppress

PATIENCE_S = 10.0
"""How long a library may go on after a signal. Files are then left as after any kill: whole ones, and what is swept."""


class Watchdog:
    """Waits beside the main thread for signals, of which Python tells handlers only when a library has returned.

    Args:
        is_ours: Whether a signal, by its number, is still to end the process.
    """

    def __init__(self, is_ours: Callable[[int], bool]) -> None:
        self._is_ours = is_ours
        self._heard = threading.Event()
        self._numbers, self._told = os.pipe()
        os.set_blocking(self._told, False)
        self._before = signal.set_wakeup_fd(self._told, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True).start()

    def hear(self) -> None:
        """A handler runs: nothing keeps it from ending the process."""
        self._heard.set()

    def close(self) -> None:
        """Watch no longer."""
        signal.set_wakeup_fd(self._before)
        os.close(self._told)  # Which ends the thread.

    def _watch(self) -> None:
        while numbers := os.read(self._numbers, 64):
            if not self._heard.wait(PATIENCE_S) and self._is_ours(numbers[0]):
                os.write(2, b"interrupted, while a library was computing\n")
                os._exit(128 + numbers[0])
            self._drain()
            self._heard.clear()
        os.close(self._numbers)

    def _drain(self) -> None:
        """Drop what came before the handler ran, which it has done for all."""
        os.set_blocking(self._numbers, False)
        with suppress(BlockingIOError):
            os.read(self._numbers, 64)
        os.set_blocking(self._numbers, True)

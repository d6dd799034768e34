# SPDX-License-Identifier: Apache-2.0
"""Captures of streams into graphs: they take turns, and nothing is given back meanwhile.

A thread that captures may not call what waits for the GPU, as giving back does; to wait for the whole GPU spoils the
captures of other threads too; and garbage is collected wherever Python happens to be.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from gantk.errors import GantkError

_turn = Lock()
_owed: deque[Callable[[], None]] = deque()


@contextmanager
def capturing() -> Iterator[None]:
    """A turn to capture a stream in."""
    try:
        with _turn:
            yield
    finally:
        _settle()


def give_back(free: Callable[[], None]) -> None:
    """Call what gives something back, for a finalizer: now, or after the capture that is under way."""
    _owed.append(free)
    _settle()


def _settle() -> None:
    # Whoever has the turn calls this afterwards, and looks again once the turn is free: more may have come by then.
    while _owed and _turn.acquire(blocking=False):
        try:
            while _owed:
                with suppress(GantkError):  # After an error of the GPU all calls fail, these too.
                    _owed.popleft()()
        finally:
            _turn.release()

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
from typing import Any

from gantk.errors import GantkError

NOT_YET = "not yet"
"""What gives something back says this where somebody else captures the stream in whose order it would."""

Free = Callable[[], Any]

_turn = Lock()
_owed: deque[Free] = deque()
_put_off: deque[Free] = deque()


@contextmanager
def capturing() -> Iterator[None]:
    """A turn to capture a stream in."""
    try:
        with _turn:
            yield
    finally:
        _settle()


def give_back(free: Free) -> None:
    """Call what gives something back, for a finalizer: now, or after the capture that is under way.

    What says `NOT_YET` is called again when something else is given back.
    """
    _owed.append(free)
    _settle()


def _settle() -> None:
    with suppress(IndexError):  # Other threads take of it too.
        while True:
            _owed.append(_put_off.popleft())
    # Whoever has the turn calls this afterwards, and looks again once the turn is free: more may have come by then.
    while _owed and _turn.acquire(blocking=False):
        try:
            while _owed:
                with suppress(GantkError):  # After an error of the GPU all calls fail, these too.
                    free = _owed.popleft()
                    if free() == NOT_YET:
                        _put_off.append(free)
        finally:
            _turn.release()

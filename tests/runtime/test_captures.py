# SPDX-License-Identifier: Apache-2.0
"""What finalizers give back while a stream is captured."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

import pytest

from gantk.errors import GantkError
from gantk.runtime import captures
from gantk.runtime.captures import capturing, give_back


def test_it_is_given_back_when_the_capture_has_ended_however_it_ends() -> None:
    given: list[str] = []

    def free(name: str) -> Callable[[], None]:
        return lambda: given.append(name)

    def fail() -> None:
        raise GantkError("an illegal memory access was encountered")

    with pytest.raises(KeyboardInterrupt), capturing():
        give_back(fail)
        give_back(free("memory"))
        assert given == []
        raise KeyboardInterrupt
    assert given == ["memory"]
    give_back(free("an event"))
    assert given == ["memory", "an event"]


def test_what_comes_while_the_last_is_given_back_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finalizer that finds the turn taken relies on whoever has it, who may just have looked for the last time."""
    given: list[str] = []

    class Turn:
        def __init__(self) -> None:
            self.lock, self.acquire = (lock := Lock()), lock.acquire

        def release(self) -> None:
            if given == ["first"]:
                give_back(lambda: given.append("second"))
            self.lock.release()

    monkeypatch.setattr(captures, "_turn", Turn())
    give_back(lambda: given.append("first"))
    assert given == ["first", "second"]


def test_what_has_to_wait_is_given_back_with_something_else() -> None:
    captured, given = [True], []

    def free() -> str | None:
        if captured:
            return captures.NOT_YET
        return given.append("memory")

    give_back(free)
    give_back(lambda: given.append("an event"))
    assert given == ["an event"]
    captured.clear()
    give_back(lambda: given.append("another"))
    assert sorted(given) == ["an event", "another", "memory"]

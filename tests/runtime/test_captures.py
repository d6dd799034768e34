# SPDX-License-Identifier: Apache-2.0
"""What finalizers give back while a stream is captured."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from gantk.errors import GantkError
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

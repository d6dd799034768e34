# SPDX-License-Identifier: Apache-2.0
"""How far a build is, as its builder says: from nothing to all, and never more."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import engine_graphs as graphs
from gantk.export.engines.build import BuildOptions, build
from gantk.export.engines.progress import Interrupter, Progress, make_monitor
from gantk.runtime.products import Product

Told = list[tuple[str, int, int]]


def monitor(progress: Progress, interrupter: Interrupter) -> Any:
    class IProgressMonitor:
        pass

    return make_monitor(SimpleNamespace(IProgressMonitor=IProgressMonitor), progress, interrupter)  # type: ignore[arg-type]


def test_each_phase_goes_from_nothing_to_all(rtx: Product) -> None:
    told: Told = []
    data = graphs.transposed(np.float32)
    build(
        rtx,
        data,
        "fp32",
        graphs.profiles_of(data),
        BuildOptions(("sm_89",)),
        "x.onnx",
        lambda *s: told.append(s),
    )
    assert told[0][:2] == ("Building engine", 0)
    for phase, steps in {(phase, steps) for phase, _, steps in told}:
        done = [count for name, count, _ in told if name == phase]
        assert (min(done), max(done)) == (0, steps), phase
        assert set(done) == set(range(steps + 1)), phase


def test_a_phase_is_never_more_than_done() -> None:
    told: Told = []
    made = monitor(lambda *step: told.append(step), Interrupter())
    made.phase_start("timing", "building", 2)
    assert all(made.step_complete("timing", step) for step in range(3))
    made.phase_finish("timing")
    assert told == [("timing", 0, 2), ("timing", 1, 2), ("timing", 2, 2), ("timing", 2, 2), ("timing", 2, 2)]
    del told[:]
    assert made.step_complete("unannounced", 4)
    made.phase_finish("unannounced")
    assert told == [("unannounced", 5, 5), ("unannounced", 1, 1)]


def test_what_was_raised_first_is_kept_and_ends_the_build() -> None:
    interrupter = Interrupter()
    made = monitor(lambda *step: None, interrupter)

    def fail(error: BaseException) -> None:
        raise error

    first = KeyboardInterrupt()
    assert not interrupter.attempt(lambda: fail(first))
    assert not interrupter.attempt(lambda: fail(ValueError()))
    assert interrupter.raised is first
    assert not made.step_complete("building", 0)


@pytest.mark.parametrize("call", ["phase_start", "phase_finish"])
def test_an_interruption_between_steps_ends_it_at_the_next(call: str) -> None:
    def interrupt(phase: str, done: int, steps: int) -> None:
        raise KeyboardInterrupt

    interrupter = Interrupter()
    made = monitor(interrupt, interrupter)
    getattr(made, call)(*("building", None, 3)[: 3 if call == "phase_start" else 1])
    assert isinstance(interrupter.raised, KeyboardInterrupt)
    assert made.step_complete("building", 0) is False

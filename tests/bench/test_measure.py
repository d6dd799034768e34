# SPDX-License-Identifier: Apache-2.0
"""How blocks rotate and when that ends, with a clock that the calls alone move."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import cycle, repeat
from typing import Any

import pytest

from gantk.bench import measure as measuring
from gantk.bench.measure import MIN_ROUNDS, MOST_CALLS, WARMUP_S, Lane, measure
from gantk.bench.process import WorkerError


class Machine:
    """A clock, and what was asked of whom.

    Args:
        asked: The lanes' names in the order of their blocks.
        running: Those that were asked and have not been stopped since.
    """

    def __init__(self) -> None:
        self.now = 1000.0
        self.asked: list[str] = []
        self.running: set[str] = set()

    def monotonic(self) -> float:
        return self.now


class Fake:
    """A worker whose calls take `durations_ns`, one after the other; it fails where they end."""

    def __init__(self, machine: Machine, name: str, durations_ns: Iterator[int]) -> None:
        self.machine, self.name, self.durations_ns = machine, name, durations_ns

    def ask(self, timeout_s: float, **request: Any) -> dict[str, Any]:
        assert (timeout_s, request["do"], request["most"]) == (9.0, "run", MOST_CALLS)
        assert request["warmup_s"] == min(WARMUP_S, request["block_s"])
        assert self.machine.running == set()
        self.machine.asked.append(self.name)
        self.machine.running.add(self.name)
        found = next(self.durations_ns, None)
        self.machine.now += max(request["block_s"], (found or 0) / 1e9)
        if found is None:
            self.machine.running.discard(self.name)
            raise WorkerError("the process was killed by SIGKILL")
        return {"ns": [found] * 5}

    def pause(self) -> None:
        self.machine.running.discard(self.name)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    monkeypatch.setattr(measuring, "time", made)
    return made


def run(
    machine: Machine, budget_s: float, *durations_ns: Iterator[int], seed: int = 0
) -> tuple[int, list[Lane], list[str]]:
    lanes = [
        Lane(name, Fake(machine, name, each))  # type: ignore[arg-type]
        for name, each in zip("abc", durations_ns, strict=False)
    ]
    lines: list[str] = []
    rounds = measure(lanes, budget_s, seed=seed, timeout_s=9.0, progress=lines.append)
    return rounds, lanes, lines


def test_it_ends_when_all_medians_stand_still(machine: Machine) -> None:
    rounds, lanes, lines = run(machine, 100.0, repeat(1000), repeat(2000))
    assert rounds == MIN_ROUNDS
    assert [[block.tolist() for block in lane.blocks] for lane in lanes] == [
        [[1000] * 5] * 6,
        [[2000] * 5] * 6,
    ]
    assert machine.running == set()
    assert machine.now == 1000.0 + 12 * 0.25
    assert lines[0] == "round 1, 0 of 100 s: warming up"
    assert lines[-1] == "round 6, 3 of 100 s: p50 known to 0.0% or better"


def test_each_round_has_every_lane_once_in_an_order_of_its_own(machine: Machine) -> None:
    orders = []
    for seed in (0, 0, 1):
        machine.asked.clear()
        run(machine, 100.0, repeat(1), repeat(2), repeat(3), seed=seed)
        rounds = [tuple(machine.asked[at : at + 3]) for at in range(0, len(machine.asked), 3)]
        assert all(sorted(one) == ["a", "b", "c"] for one in rounds)
        assert len(set(rounds)) > 1
        orders.append(rounds)
    assert orders[0] == orders[1] != orders[2]


def test_it_ends_when_the_time_is_up(machine: Machine) -> None:
    rounds, lanes, lines = run(machine, 3.0, repeat(1000), cycle([1000, 2000]))
    assert rounds == 13  # Of two blocks of an eighth of a second, so that six rounds take half of the time.
    assert {len(lane.blocks) for lane in lanes} == {13}
    assert lines[-1] == "round 13, 3 of 3 s: p50 known to 50.0% or better"


def test_there_is_one_whole_round_however_long_a_call_takes(machine: Machine) -> None:
    rounds, lanes, _ = run(machine, 1.0, repeat(2 * 10**9), repeat(3 * 10**9))
    assert (rounds, [len(lane.blocks) for lane in lanes]) == (1, [1, 1])


def test_who_fails_leaves_the_race(machine: Machine) -> None:
    rounds, lanes, _ = run(machine, 100.0, iter([1000]), repeat(2000))
    assert (rounds, [len(lane.blocks) for lane in lanes]) == (6, [1, 6])
    assert [lane.error for lane in lanes] == ["the process was killed by SIGKILL", None]
    assert machine.asked.count("a") == 2
    rounds, lanes, _ = run(machine, 100.0, iter(()), iter(()))
    assert (rounds, [len(lane.blocks) for lane in lanes]) == (1, [0, 0])

# SPDX-License-Identifier: Apache-2.0
"""Which of two files is faster is measured in turns, of several sizes, and no longer than it takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from gantk.export import speed
from gantk.export.reference import Feeds
from gantk.tensors import TensorSpec

LATENT = TensorSpec("latent", "float32", ("N", 4), layout="NC")
PICTURE = TensorSpec("picture", "uint8", ("N", "H", "W", 3), (0.0, 255.0), "NHWC")


@dataclass
class TimedRunner:
    latency_s: float
    precision: str = "fp32"
    file_precision: str = "fp32"

    def __enter__(self) -> TimedRunner:
        return self

    def __exit__(self, *_: object) -> None: ...


def test_the_speedup_is_the_ratio_of_latencies(monkeypatch: pytest.MonkeyPatch) -> None:
    runners = {
        b"plain": TimedRunner(3.0),
        b"other": TimedRunner(2.0),
        b"cast": TimedRunner(1.0, "fp32", "fp16"),
    }
    monkeypatch.setattr(speed, "from_bytes", lambda data: data)
    monkeypatch.setattr(speed, "open_model", lambda model, backend: runners[model])
    monkeypatch.setattr(speed, "timed_call", lambda runner, feeds: lambda: runner.latency_s)
    monkeypatch.setattr(speed, "_latency_s", lambda call: call())
    assert speed.speedup(b"plain", b"other", "onnxruntime", [{}]) == pytest.approx(1.5)
    # A backend that computes in another precision than the file's says nothing of it.
    assert speed.speedup(b"cast", b"other", "onnxruntime", ()) is None


def test_the_first_call_of_a_block_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clocked:
        now = 0.0
        calls = 0

        def call(self) -> None:
            Clocked.calls += 1
            Clocked.now += 5.0 if Clocked.calls <= 1 else 0.01

    monkeypatch.setattr(speed.time, "perf_counter", lambda: Clocked.now)
    assert speed._latency_s(Clocked().call) == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("spec", "shapes"),
    [(LATENT, [(1, 4), (16, 4)]), (PICTURE, [(1, 384, 512, 3)])],
    ids=["batches", "picture"],
)
def test_all_sizes_count_alike(
    monkeypatch: pytest.MonkeyPatch, spec: TensorSpec, shapes: list[tuple[int, ...]]
) -> None:
    monkeypatch.setattr(speed, "from_bytes", lambda data: data)
    monkeypatch.setattr(speed, "open_model", lambda model, backend: TimedRunner(1.0))
    seen: list[tuple[int, ...]] = []

    def ratio(a: object, b: object, feeds: Feeds) -> float:
        seen.append(feeds[spec.name].shape)
        return 2.0 if len(seen) == 1 else 8.0

    monkeypatch.setattr(speed, "_ratio", ratio)
    assert speed.speedup(b"plain", b"other", "onnxruntime", speed.timed_feeds((spec,))) == pytest.approx(
        4.0 if shapes[1:] else 2.0
    )
    assert seen == shapes


@dataclass
class Clock:
    now: float = 0.0

    def blocks(self, seconds: float, latencies: Iterator[float]) -> Callable[[object], float]:
        """Blocks of calls that take so long, and find these latencies."""

        def block(call: object) -> float:
            self.now += seconds
            return next(latencies)

        return block


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(speed.time, "perf_counter", lambda: made.now)
    return made


@pytest.mark.parametrize(("seconds", "ratio"), [(0.1, 4.0), (0.4, 5.0), (2.0, 2.0), (11.0, 9.0)])
def test_a_slow_machine_measures_three_rounds_and_others_five(
    clock: Clock, monkeypatch: pytest.MonkeyPatch, seconds: float, ratio: float
) -> None:
    """Of each the median: of 9, 2 and 1; of 9, 2, 1, 8 too; and of 9, 2, 1, 8 and 4. Of very long ones one does."""
    ratios = (9.0, 2.0, 1.0, 8.0, 4.0, 1e9)
    latencies = iter([latency for ratio in ratios for latency in (ratio, 1.0)])
    monkeypatch.setattr(speed, "_latency_s", clock.blocks(seconds, latencies))
    runners = Running(), Running()
    assert speed._ratio(*runners, {}) == ratio  # type: ignore[arg-type]
    assert [len(runner.fed) for runner in runners] == [1, 1]  # Once for nothing.


@dataclass
class Running:
    fed: list[object] = field(default_factory=list)

    def run(self, feeds: Feeds) -> None:
        self.fed.append(feeds)


class Binding(Running):
    def bind(self, feeds: Feeds) -> Callable[[], None]:
        return lambda: self.fed.append(("bound", feeds))


def test_a_run_is_bound_where_that_can_be() -> None:
    feeds = {"x": np.zeros(1, np.float32)}
    for runner, fed in ((Running(), feeds), (Binding(), ("bound", feeds))):
        call = speed.timed_call(runner, feeds)  # type: ignore[arg-type]
        assert runner.fed == []
        call()
        assert runner.fed == [fed]


@pytest.mark.parametrize(("seconds", "calls"), [(1.0, 2), (0.0125, 4)])
def test_a_block_takes_as_long_as_it_says(clock: Clock, seconds: float, calls: int) -> None:
    """One call before it begins, and one at least in it."""
    made: list[None] = []

    def call() -> None:
        clock.now += seconds
        made.append(None)

    assert speed._latency_s(call) == pytest.approx(seconds)
    assert len(made) == calls

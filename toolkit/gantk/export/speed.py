# SPDX-License-Identifier: Apache-2.0
"""Whether one form of a network is faster than another on a backend, measured here and now."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import geometric_mean, median

from gantk.export.reference import Feeds, make_feeds, trial_sizes
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec

PAYS = 1.03
"""The speed-up from which a second form is worth its file."""

BATCHES = (1, 16)
"""The batch sizes that are timed where a network's pictures have one size."""

PICTURE = (1, 384, 512)
"""Batch size, height and width of what is timed where it takes any size: large enough to leave the caches."""

ROUNDS = 5
BLOCK_S = 0.03

ENOUGH_S = 3.0
"""After so long three rounds do: a large network on a slow machine is not to keep its user waiting."""

LONG_S = 20.0
"""After so long one round does: its runs take seconds each, in which a machine's disturbances even out."""


def timed_feeds(inputs: Sequence[TensorSpec]) -> tuple[Feeds, ...]:
    """The inputs of a network that are timed: batches, or one large picture where it takes pictures of any size."""
    sizes = trial_sizes(inputs, [PICTURE])
    return make_feeds(inputs, sizes if len(sizes) == 1 else [{"N": batch} for batch in BATCHES])


def speedup(plain: bytes, other: bytes, backend: str, timed: Sequence[Feeds]) -> float | None:
    """How many times as fast the ONNX file `other` is as `plain` on a backend.

    Blocks of calls alternate between the two in one process; for each of the inputs the median of the ratios counts,
    of all the geometric mean.

    Args:
        plain: The one file.
        other: The other, which takes the same.
        backend: Runs both.
        timed: Inputs, a batch each.

    Returns:
        The factor, or `None` where the backend computes in another precision than the file's, and so tells
        nothing about it.
    """
    with open_model(from_bytes(plain), backend) as a, open_model(from_bytes(other), backend) as b:
        if a.precision != a.file_precision:
            return None
        return geometric_mean(_ratio(a, b, feeds) for feeds in timed)


def _ratio(a: Runner, b: Runner, feeds: Feeds) -> float:
    first, second = timed_call(a, feeds), timed_call(b, feeds)
    for call in (first, second):
        call()  # The first one of all may take several times as long as the next.
    ratios: list[float] = []
    start = time.perf_counter()
    while not _is_enough(len(ratios), time.perf_counter() - start):
        ratios.append(_latency_s(first) / _latency_s(second))
    return median(ratios)


def _is_enough(rounds: int, elapsed_s: float) -> bool:
    return (
        rounds >= ROUNDS or (rounds >= 3 and elapsed_s >= ENOUGH_S) or (rounds >= 1 and elapsed_s >= LONG_S)
    )


def timed_call(runner: Runner, feeds: Mapping[str, Array]) -> Callable[[], object]:
    """A run; on a GPU one that is bound, for copies are the same for both and may take longer than the network."""
    bind: Callable[[Mapping[str, Array]], Callable[[], object]] | None = getattr(runner, "bind", None)
    return bind(feeds) if bind is not None else lambda: runner.run(feeds)


def _latency_s(call: Callable[[], object]) -> float:
    """The median of a block of calls, after one that does not count: the other runner has emptied the caches."""
    call()
    times: list[float] = []
    end = time.perf_counter() + BLOCK_S
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return median(times)

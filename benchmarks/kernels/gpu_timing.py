# SPDX-License-Identifier: Apache-2.0
"""How long a function keeps a GPU busy: CUDA graphs between CUDA events, with a cold and with a warm cache.

All contenders of a case live in one process and take turns, a block each in an order shuffled anew. On a CPU that
would distort them (their threads spin); a GPU only does what is in its one stream. Each is captured into CUDA graphs
first, so that neither Python nor launch overhead counts.

- cold: a buffer twice as large as the second-level cache is read, then one call is timed between two events. It is not
  written: the cache would be full of what is not in memory yet, and the call would pay for taking it there. What the
  events themselves take, measured with an empty stretch, is reported and not subtracted.
- warm: one graph repeats the call without a pause; its time is divided by their number.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from gantk.bench.stats import Nanoseconds, half_width

CALLS = 8  # Of a block with a cold cache.
WARM_US = 400.0  # What one warm graph should take.
MOST_REPEATS = 50
FEWEST_ROUNDS, MOST_ROUNDS = 7, 40
CONVERGED = 0.01


@dataclass
class Lane:
    """A contender while it is timed; blocks are ns a call."""

    single: Any
    repeated: Any
    repeats: int
    cold: list[Nanoseconds] = field(default_factory=list)
    warm: list[Nanoseconds] = field(default_factory=list)


def capture(function: Callable[[], Any], times: int = 1) -> Any:
    """Calls as one CUDA graph; the first ones, which compile and allocate, run before it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            function()
    return graph


def make_lane(function: Callable[[], Any]) -> Lane:
    single = capture(function)
    single.replay()
    once_us = min(timed(single.replay, 3)) / 1e3
    repeats = max(1, min(MOST_REPEATS, round(WARM_US / max(once_us, 1.0))))
    return Lane(single, capture(function, repeats), repeats)


def timed(call: Callable[[], Any], count: int, sweep: Callable[[], Any] | None = None) -> Nanoseconds:
    """The duration of each call in ns. The stream is busy with the sweep while the events are enqueued."""
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
    for began, ended in pairs:
        if sweep is not None:
            sweep()
        began.record()
        call()
        ended.record()
    torch.cuda.synchronize()
    return np.array([round(began.elapsed_time(ended) * 1e6) for began, ended in pairs], np.int64)


def cache_sweep() -> Callable[[], Any]:
    """What leaves nothing of others in the second-level cache: it reads twice as much, 64 MiB at least."""
    cache_bytes = int(torch.cuda.get_device_properties(0).L2_cache_size)
    values = torch.zeros(max(2 * cache_bytes, 2**26) // 4, device="cuda")
    total = torch.empty((), device="cuda")
    return lambda: torch.sum(values, dim=0, out=total)


def rounds(lanes: dict[str, Lane], budget_s: float, sweep: Callable[[], Any], seed: int = 0) -> int:
    """Time blocks in turns until every median stands still or the time is up; returns the number of rounds."""
    rng, until, count = random.Random(seed), time.monotonic() + budget_s, 0
    while count < FEWEST_ROUNDS or (count < MOST_ROUNDS and time.monotonic() < until and not settled(lanes)):
        for name in rng.sample(sorted(lanes), len(lanes)):
            lane = lanes[name]
            lane.cold.append(timed(lane.single.replay, CALLS, sweep))
            lane.warm.append(timed(lane.repeated.replay, 2) // lane.repeats)
        count += 1
    return count


def settled(lanes: dict[str, Lane]) -> bool:
    """Whether the confidence interval of every median is within 1 % to either side."""
    widths = [half_width([float(np.median(block)) for block in lane.cold]) for lane in lanes.values()]
    return all(width is not None and width <= CONVERGED for width in widths)


def event_floor_us(sweep: Callable[[], Any]) -> float:
    """What two events with nothing between them report, in us."""
    return float(np.median(timed(lambda: None, 50, sweep))) / 1e3


def peaks() -> dict[str, float]:
    """What this GPU reaches: bytes a second of a large copy, read and written; FLOP a second of large products."""
    return {
        "copy_bytes_per_s": copy_bytes_per_s(),
        "bf16_flops_per_s": flops_per_s(torch.bfloat16),
        "tf32_flops_per_s": flops_per_s(torch.float32),
    }


def copy_bytes_per_s(size: int = 2**29) -> float:
    source = torch.empty(size, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * size / (best_ns(lambda: target.copy_(source)) / 1e9)


def flops_per_s(dtype: torch.dtype, side: int = 8192) -> float:
    torch.set_float32_matmul_precision("high")
    factor = torch.randn(side, side, dtype=dtype, device="cuda")
    product = torch.empty_like(factor)
    return 2 * side**3 / (best_ns(lambda: torch.mm(factor, factor, out=product)) / 1e9)


def best_ns(call: Callable[[], Any]) -> float:
    """The median of the faster half of twenty calls."""
    for _ in range(3):
        call()
    return float(np.median(np.sort(timed(call, 20))[:10]))

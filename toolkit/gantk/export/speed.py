# SPDX-License-Identifier: Apache-2.0
"""Whether one form of a network is faster than another on a backend, measured here and now."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import geometric_mean, median

from gantk.export.verify import Feeds, make_feeds
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Runner
from gantk.tensors import TensorSpec

PAYS = 1.03
"""The speed-up from which a second form is worth its file."""

BATCHES = (1, 16)
ROUNDS = 5
BLOCK_S = 0.05


def faster_backends(
    plain: bytes,
    other: bytes,
    backends: Sequence[str],
    inputs: Sequence[TensorSpec],
    report: Callable[[str], None],
) -> tuple[str, ...]:
    """The backends on which the ONNX file `other` is faster than `plain` by the factor `PAYS`.

    Blocks of calls alternate between the two in one process; of each batch size the median of the ratios
    counts, of all sizes the geometric mean. A backend that computes in another precision than the
    file's says nothing about it and is left out.
    """
    faster = []
    for backend in backends:
        with open_model(from_bytes(plain), backend) as a, open_model(from_bytes(other), backend) as b:
            if a.precision != a.file_precision:
                continue
            gain = geometric_mean(_speedup(a, b, make_feeds(inputs, (batch,))[0]) for batch in BATCHES)
            report(f"  {a.precision} on {backend}: rewritten is {gain:.2f} times as fast")
            if gain >= PAYS:
                faster.append(backend)
    return tuple(faster)


def _speedup(a: Runner, b: Runner, feeds: Feeds) -> float:
    return median(_latency_s(a, feeds) / _latency_s(b, feeds) for _ in range(ROUNDS))


def _latency_s(runner: Runner, feeds: Feeds) -> float:
    """The median of a block of calls, after two that do not count."""
    for _ in range(2):
        runner.run(feeds)
    times: list[float] = []
    end = time.perf_counter() + BLOCK_S
    while not times or time.perf_counter() < end:
        start = time.perf_counter()
        runner.run(feeds)
        times.append(time.perf_counter() - start)
    return median(times)

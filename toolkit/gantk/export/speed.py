# SPDX-License-Identifier: Apache-2.0
"""Whether one form of a network is faster than another on a backend, measured here and now."""

from __future__ import annotations

import time
from collections.abc import Sequence
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
BLOCK_S = 0.03


def speedup(plain: bytes, other: bytes, backend: str, inputs: Sequence[TensorSpec]) -> float | None:
    """How many times as fast the ONNX file `other` is as `plain` on a backend.

    Blocks of calls alternate between the two in one process; of each batch size the median of the ratios
    counts, of all sizes the geometric mean.

    Returns:
        The factor, or `None` where the backend computes in another precision than the file's, and so tells
        nothing about it.
    """
    with open_model(from_bytes(plain), backend) as a, open_model(from_bytes(other), backend) as b:
        if a.precision != a.file_precision:
            return None
        return geometric_mean(_ratio(a, b, make_feeds(inputs, (batch,))[0]) for batch in BATCHES)


def _ratio(a: Runner, b: Runner, feeds: Feeds) -> float:
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

# SPDX-License-Identifier: Apache-2.0
"""What blocks of latencies say, and how surely: order statistics, which assume no distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Nanoseconds = NDArray[np.int64]
Interval = tuple[float, float]

CONFIDENCE = 0.95
"""The least probability with which intervals hold."""

BEYOND = 10
"""A percentile is only stated where so many samples lie beyond it."""

NOISY_CV = 0.025
"""The coefficient of variation above which a row is called noisy."""

TAILS = {"p90": 0.90, "p95": 0.95, "p99": 0.99}


def interval_ranks(count: int, share: float) -> tuple[int, int] | None:
    """The ranks between which a percentile of the population lies, with `CONFIDENCE`.

    The number of samples below the true percentile is binomial, whatever the distribution
    (David and Nagaraja, Order Statistics, section 7.1).

    Args:
        count: The number of independent samples.
        share: The percentile as a share, in (0, 1).

    Returns:
        Two indices into the sorted samples, from 0, or `None` where there are too few samples.
    """
    if count < 1:
        return None
    below = np.cumsum(_binomial(count, share))  # below[k]: the probability of at most k samples below it
    tail = (1.0 - CONFIDENCE) / 2.0
    low = int(np.searchsorted(below, tail, side="right")) - 1
    high = int(np.searchsorted(below, 1.0 - tail, side="left"))
    return (low, high) if low >= 0 and high < count else None


def interval(samples: NDArray[Any], share: float) -> Interval | None:
    """The confidence interval of a percentile (see `interval_ranks`)."""
    ranks = interval_ranks(len(samples), share)
    if ranks is None:
        return None
    ordered = np.sort(samples)
    return float(ordered[ranks[0]]), float(ordered[ranks[1]])


def half_width(medians: Sequence[float]) -> float | None:
    """Half the width of the confidence interval of the median of the blocks' medians, as a share of it."""
    found = interval(np.asarray(medians), 0.5)
    return None if found is None else (found[1] - found[0]) / 2.0 / float(np.median(medians))


def summarise(blocks: Sequence[Nanoseconds]) -> dict[str, Any]:
    """The latencies of blocks of calls, in ms.

    Calls of one block are alike because they were made in one moment, so the interval of the p50 comes from the
    medians of the blocks. Those of the tails treat all calls as independent.

    Args:
        blocks: The duration of each call of each block, in ns.

    Returns:
        ``mean min p50 p50_ci95 p90 p90_ci95 p95 p95_ci95 p99 p99_ci95 stddev cv``; a percentile or an interval
        that the samples do not carry is `None`; ``cv`` is the standard deviation as a share of the mean.
    """
    pooled = np.concatenate(blocks) / 1e6
    mean, p50 = float(pooled.mean()), float(np.median(pooled))
    stddev = float(pooled.std(ddof=1)) if len(pooled) > 1 else 0.0
    found = interval(np.array([np.median(block) for block in blocks]) / 1e6, 0.5)
    summary: dict[str, Any] = {
        "mean": mean,
        "min": float(pooled.min()),
        "p50": p50,
        "p50_ci95": None if found is None else [min(found[0], p50), max(found[1], p50)],
    }
    for name, share in TAILS.items():
        enough = len(pooled) * (1.0 - share) >= BEYOND - 1e-9
        around = interval(pooled, share) if enough else None
        summary[name] = float(np.quantile(pooled, share, method="inverted_cdf")) if enough else None
        summary[f"{name}_ci95"] = None if around is None else list(around)
    return {**summary, "stddev": stddev, "cv": stddev / mean}


def speedup(reference: Sequence[Nanoseconds], other: Sequence[Nanoseconds]) -> tuple[float, Interval | None]:
    """How many times as fast as a reference something is, and the 95 % confidence interval of that.

    Blocks are paired by round, so what slows the whole machine for a while slows both and cancels out.
    """
    ratios = np.array([np.median(a) / np.median(b) for a, b in zip(reference, other, strict=False)])
    return float(np.median(ratios)), interval(ratios, 0.5)


def _binomial(count: int, share: float) -> NDArray[np.float64]:
    """The probabilities of 0 to `count` successes."""
    logs = np.concatenate(([0.0], np.cumsum(np.log(np.arange(1, count + 1)))))
    k = np.arange(count + 1)
    log = logs[-1] - logs - logs[::-1] + k * math.log(share) + (count - k) * math.log1p(-share)
    return np.asarray(np.exp(log))

# SPDX-License-Identifier: Apache-2.0
"""Order statistics against brute force and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.bench.stats import half_width, interval_ranks, speedup, summarise


def coverage(count: int, share: float, low: int, high: int) -> float:
    """The probability that the true percentile lies between two order statistics, summed exactly."""
    return sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(low + 1, high + 1))


@settings(max_examples=80)
@given(st.integers(1, 200), st.sampled_from([0.5, 0.9, 0.95, 0.99]))
def test_ranks_cover_and_no_tighter_ranks_do(count: int, share: float) -> None:
    ranks = interval_ranks(count, share)
    if ranks is None:
        # Then even the outermost samples leave one side with more than 2.5 %.
        assert share**count > 0.025 or (1 - share) ** count > 0.025
        return
    low, high = ranks
    assert coverage(count, share, low, high) >= 0.95 - 1e-9
    below = sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(low + 2))
    above = sum(math.comb(count, k) * share**k * (1 - share) ** (count - k) for k in range(high, count + 1))
    assert below > 0.025, "the lower rank could be higher"
    assert above > 0.025 or high == 0, "the upper rank could be lower"


def test_six_blocks_carry_an_interval_and_five_do_not() -> None:
    assert interval_ranks(6, 0.5) == (0, 5)
    assert interval_ranks(5, 0.5) is None
    assert interval_ranks(0, 0.5) is None
    assert half_width([1.0] * 5) is None
    assert half_width([9.0, 10.0, 10.0, 10.0, 10.0, 11.0]) == pytest.approx(0.1)


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_simulated_coverage_of_a_skewed_distribution(share: float) -> None:
    generator = np.random.default_rng(1)
    truth = -math.log(1 - share)  # of the exponential distribution
    ranks = interval_ranks(600, share)
    assert ranks is not None
    samples = np.sort(generator.exponential(size=(3000, 600)), axis=1)
    inside = (samples[:, ranks[0]] <= truth) & (truth <= samples[:, ranks[1]])
    assert 0.94 < inside.mean() < 0.985


def test_large_counts_neither_overflow_nor_vanish() -> None:
    low, high = interval_ranks(300_000, 0.99) or (0, 0)
    assert low < 297_000 < high
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(300_000 * 0.01 * 0.99), rel=0.02)


def test_summary_of_known_latencies() -> None:
    blocks = [np.arange(1, 101, dtype=np.int64) * 1_000_000 for _ in range(8)]  # 1 to 100 ms
    found = summarise(blocks)
    assert found["p50"] == 50.5
    assert (found["p90"], found["p95"]) == (90.0, 95.0)
    assert found["p99"] is None, "only 8 of 800 samples lie beyond it"
    assert found["p50_ci95"] == [50.5, 50.5]
    assert found["p90_ci95"][0] < 90.0 < found["p90_ci95"][1]
    assert (found["min"], found["mean"]) == (1.0, 50.5)
    assert found["cv"] == pytest.approx(np.std(np.arange(1, 101).repeat(8), ddof=1) / 50.5)


@pytest.mark.parametrize(("count", "known"), [(99, False), (100, True)])
def test_a_percentile_wants_ten_samples_beyond(count: int, known: bool) -> None:
    assert (summarise([np.arange(1, count + 1)])["p90"] is not None) is known


@given(st.lists(st.lists(st.integers(1, 10**9), min_size=1, max_size=20), min_size=6, max_size=12))
@settings(max_examples=60)
def test_the_interval_always_holds_the_median(blocks: list[list[int]]) -> None:
    found = summarise([np.array(block) for block in blocks])
    assert found["p50_ci95"][0] <= found["p50"] <= found["p50_ci95"][1]


def test_speedup_pairs_rounds_so_that_drift_cancels() -> None:
    drift = [1.0, 1.5, 2.0, 3.0, 2.0, 1.2, 1.1]
    slow = [np.array([int(4e6 * d)]) for d in drift]
    fast = [np.array([int(2e6 * d)]) for d in drift]
    factor, found = speedup(slow, fast)
    assert factor == pytest.approx(2.0)
    assert found == pytest.approx((2.0, 2.0))

# SPDX-License-Identifier: Apache-2.0
"""What passes for equal: floats by their error, whole levels by how often and how far they part."""

from __future__ import annotations

import numpy as np
import pytest

from gantk.bundle import STEP_FAMILY
from gantk.runtime.parity import STEP_THRESHOLDS, THRESHOLDS, compare, span_of, threshold_of

RIGHT = np.random.default_rng(0).integers(1, 255, (2, 50, 50, 3)).astype(np.uint8)


def moved(share: float, by: int) -> np.ndarray:
    """A share of the levels moved."""
    other = RIGHT.astype(int)
    chosen = np.random.default_rng(1).random(RIGHT.shape) < share
    other[chosen] += by
    return np.clip(other, 0, 255).astype(np.uint8)


@pytest.mark.parametrize(
    ("share", "by", "passes"),
    [(0.0, 1, True), (1e-3, 1, True), (0.01, 1, True), (0.05, 1, False), (1e-4, 2, False)],
)
def test_rounding_may_move_a_few_values_by_one_level_and_none_by_two(
    share: float, by: int, passes: bool
) -> None:
    reason = compare([moved(share, by)], [RIGHT], 255.0).against(THRESHOLDS["fp32"], 255.0)
    assert (reason is None) == passes


def test_half_precisions_keep_their_own_threshold() -> None:
    difference = compare([moved(0.3, 1)], [RIGHT], 255.0)
    assert difference.against(THRESHOLDS["fp16"], 255.0) is None
    assert difference.against(THRESHOLDS["fp32"], 255.0) is not None


def test_floats_are_not_excused() -> None:
    right = RIGHT.astype(np.float32)
    difference = compare([moved(1e-2, 1).astype(np.float32)], [right], 255.0)
    assert "at least 80 dB wanted" in (difference.against(THRESHOLDS["fp32"], 255.0) or "")


def test_outputs_of_another_shape_or_that_are_not_finite_are_wrong_in_words() -> None:
    right = RIGHT.astype(np.float32)
    broken = right.copy()
    broken[0, 0, 0] = [np.nan, np.nan, np.inf]
    for outputs, fault in (
        (right[:1], "an output has shape [1, 50, 50, 3], its reference [2, 50, 50, 3]"),
        (broken, "2 values are NaN and 1 infinite, of 15000"),
        (np.full_like(right, 7), "every output is one constant"),
    ):
        assert compare([outputs], [right], 255.0).against(THRESHOLDS["bf16"], 255.0) == fault


def test_a_sample_of_zeros_is_like_itself_alone() -> None:
    zeros, ones = np.zeros((1, 4)), np.ones((1, 4))
    assert compare([zeros], [zeros], 1.0).cosine == 1.0
    assert compare([ones], [zeros], 1.0).cosine == 0.0
    assert compare([np.concatenate([ones, zeros])], [np.concatenate([ones, -ones])], 1.0).cosine == 0.0


def test_a_step_of_an_optimisation_has_thresholds_of_its_own_in_some_precisions() -> None:
    assert threshold_of("fp32", STEP_FAMILY) is STEP_THRESHOLDS["fp32"]
    assert threshold_of("fp32", "dcgan") is THRESHOLDS["fp32"]
    assert threshold_of("fp16", STEP_FAMILY) is THRESHOLDS["fp16"]


def test_the_range_of_an_output_is_never_nothing() -> None:
    assert span_of(RIGHT, (-1.0, 1.0)) == 2.0
    assert [span_of(np.array(values), None) for values in ([1.0, 4.0], [-3.0, -3.0], [0.0])] == [
        3.0,
        3.0,
        1.0,
    ]

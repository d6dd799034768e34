# SPDX-License-Identifier: Apache-2.0
"""What passes for equal: floats by their error, whole levels by how often and how far they part."""

from __future__ import annotations

import numpy as np
import pytest

from gantk.runtime.parity import THRESHOLDS, compare

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

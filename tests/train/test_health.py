# SPDX-License-Identifier: Apache-2.0
"""Collapse and imbalance are seen, and a healthy run is left in peace."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gantk.train import health, plots


def history(diversity: list[float], accuracy: list[float], first_step: int = 500) -> list[dict[str, Any]]:
    return [
        {"event": "snapshot", "step": first_step + 100 * index, "diversity": d, "d_accuracy": a}
        for index, (d, a) in enumerate(zip(diversity, accuracy, strict=True))
    ]


def test_spread_is_the_mean_distance_of_pairs() -> None:
    pictures = torch.zeros(3, 1, 32, 32, dtype=torch.uint8)
    pictures[2] = 90
    assert health.spread(pictures) == pytest.approx((0 + 90 + 90) / 3)
    assert health.spread(pictures[:2]) == 0


def test_noise_on_one_picture_is_no_diversity() -> None:
    torch.manual_seed(0)
    noisy = (torch.full((32, 1, 64, 64), 128.0) + 20 * torch.randn(32, 1, 64, 64)).to(torch.uint8)
    flat = torch.randint(60, 200, (32, 1, 1, 1)).expand(32, 1, 64, 64).to(torch.uint8)
    assert health.spread(noisy) < 0.2 * health.spread(flat)


@pytest.mark.parametrize(
    ("diversity", "accuracy", "found"),
    [
        ([0.9, 0.95, 1.0], [0.9, 0.85, 0.8], []),
        ([0.3, 0.2, 0.12], [0.9, 0.9, 0.9], ["mode collapse"]),
        ([0.3, 0.5, 0.12], [0.9, 0.9, 0.9], []),
        ([0.9, 0.9, 0.9], [0.995, 1.0, 0.999], ["perfect discriminator"]),
        ([0.9, 0.9, 0.9], [0.5, 0.52, 0.48], ["lost discriminator"]),
        ([0.1, 0.1], [1.0, 1.0], []),
    ],
)
def test_only_what_lasts_is_warned_of(
    diversity: list[float], accuracy: list[float], found: list[str]
) -> None:
    assert list(health.warnings(history(diversity, accuracy))) == found


def test_a_warning_says_how_bad_and_what_to_do() -> None:
    sentence = health.warnings(history([0.3, 0.2, 0.12], [0.9] * 3))["mode collapse"]
    assert "only 12% as diverse as your pictures" in sentence
    assert "--label-smoothing 0.1" in sentence


def test_the_first_steps_are_not_judged() -> None:
    assert health.warnings(history([0.1] * 3, [1.0] * 3, first_step=10)) == {}


def test_a_running_mean_has_no_bias_at_its_beginning() -> None:
    assert plots._smooth([3.0] * 100) == pytest.approx([3.0] * 100)
    assert plots._smooth([]) == []
    assert all(math.isfinite(value) for value in plots._smooth(list(range(1000))))

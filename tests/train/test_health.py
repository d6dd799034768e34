# SPDX-License-Identifier: Apache-2.0
"""Collapse and imbalance are seen, and a healthy run is left in peace."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from gantk.train import health, plots


def history(
    diversity: list[float],
    accuracy: list[float],
    first_step: int = 500,
    fakes: tuple[float, ...] = (1e-3, 1e-3, 1e-3),
    losses: tuple[float, ...] = (7.0, 7.0, 7.0),
) -> list[dict[str, Any]]:
    """Snapshots, each after two lines on steps with a discriminator's scores of samples and a generator's losses."""
    lines: list[dict[str, Any]] = []
    for index, (d, a, fake, loss) in enumerate(zip(diversity, accuracy, fakes, losses, strict=False)):
        step = first_step + 100 * index
        lines += [{"event": "step", "step": step - 10, "d_fake": fake * 1.5, "loss_g": loss}]
        lines += [{"event": "step", "step": step, "d_fake": fake * 0.5, "loss_g": loss}]
        lines += [{"event": "snapshot", "step": step, "diversity": d, "d_accuracy": a}]
    return lines


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


@pytest.mark.parametrize(
    ("accuracy", "fakes", "losses", "won"),
    [
        # As measured: `gantk demo` at its end, whose flowers are good,
        ((0.998, 0.9985, 0.9988), (0.1055, 0.1031, 0.1008), (2.486, 2.495, 2.499), False),
        # squares that the discriminator tells with certainty while their diversity rises from 0.7 to 1.1,
        ((1.0, 1.0, 1.0), (0.0115, 0.0103, 0.0157), (4.79, 4.87, 4.72), False),
        # and flowers of a generator that learns a hundredth as fast, which stay as they are.
        ((1.0, 1.0, 1.0), (1.1e-4, 8e-5, 6e-5), (9.47, 9.76, 9.98), True),
        ((1.0, 1.0, 1.0), (1.9e-3, 1.9e-3, 1.9e-3), (6.8, 6.7, 6.6), True),
        ((1.0, 1.0, 1.0), (1e-3, 1e-3, 1.5e-3), (8.99, 7.06, 6.27), False),  # The generator catches up.
        ((1.0, 1.0, 1.0), (1e-3, 1e-3, 5e-2), (7.0, 7.0, 7.0), False),
        ((1.0, 0.98, 1.0), (1e-3, 1e-3, 1e-3), (7.0, 7.0, 7.0), False),
    ],
)
def test_a_discriminator_that_is_right_harms_where_the_generator_does_not_catch_up(
    accuracy: tuple[float, ...], fakes: tuple[float, ...], losses: tuple[float, ...], won: bool
) -> None:
    lines = history([1.0] * 3, list(accuracy), fakes=fakes, losses=losses)
    assert ("perfect discriminator" in health.warnings(lines)) == won


def test_a_warning_says_how_bad_and_what_to_do() -> None:
    sentence = health.warnings(history([0.3, 0.2, 0.12], [0.9] * 3))["mode collapse"]
    assert "only 12% as diverse as your pictures" in sentence
    assert "--label-smoothing 0.1" in sentence
    sentence = health.warnings(history([0.9] * 3, [0.9991] * 3))["perfect discriminator"]
    assert "right on 99.9% of pictures, scores samples 0.001 of 1" in sentence


def test_the_first_steps_are_not_judged() -> None:
    assert health.warnings(history([0.1] * 3, [1.0] * 3, first_step=10)) == {}


def test_a_running_mean_has_no_bias_at_its_beginning() -> None:
    assert plots._smooth([3.0] * 100) == pytest.approx([3.0] * 100)
    assert plots._smooth([]) == []
    assert all(math.isfinite(value) for value in plots._smooth(list(range(1000))))

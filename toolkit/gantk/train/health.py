# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with such trainings, measured: mode collapse, and a discriminator that won or lost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

COLLAPSED_BELOW = 0.4
"""Samples that are less diverse than this share of the real pictures' diversity look alike to the eye."""

PERFECT_ABOVE = 0.99
"""A discriminator that is right more often than this may have won; it has where it is also certain of that."""

CERTAIN_BELOW = 0.002
"""A discriminator that scores samples lower than this on average is certain of them.

What it can still tell a generator that learns from log(1 - D) goes to zero with the score (Arjovsky and Bottou, arXiv
1701.04862, theorem 2.4). Ours learns from -log D, whose gradient does not vanish (Goodfellow, arXiv 1701.00160, section
3.2.3), and may well catch up; so a warning waits for a loss of the generator that does not fall. A discriminator that
is right on all pictures and not certain, as at the end of `gantk demo` with scores of 0.1, does no harm; trainings that
went well were seen with scores down to 0.01, one whose generator stood still with 0.0008 and less.
"""

LOST_BELOW = 0.55
"""A discriminator that is right less often than this tells a generator no more than chance does."""

_FALLS_TO = 0.9  # A generator's loss that falls less than to this share of itself does not fall.
_PATIENCE = 3  # Snapshots in a row.
_WARM_UP_STEPS = 200  # Every generator begins with samples that are all alike.

Record = dict[str, Any]


def spread(pictures: Tensor) -> float:
    """How different pictures are: the mean over pairs of their root mean square distance, in grey levels.

    Each is first averaged down to 16 x 16 pixels, so that noise does not count as diversity.

    Args:
        pictures: uint8[N, C, H, W] with N at least 2.
    """
    small = F.adaptive_avg_pool2d(pictures.float(), 16).flatten(1)
    distances = torch.pdist(small) / small.shape[1] ** 0.5
    return float(distances.mean())


def warnings(history: Sequence[Record]) -> dict[str, str]:
    """What is wrong now, in words.

    Args:
        history: The lines of ``metrics.jsonl`` so far.

    Returns:
        A sentence for each trouble, by a short name.
    """
    windows = _windows(history)[-_PATIENCE:]
    snapshots = [snapshot for snapshot, _ in windows]
    if len(snapshots) < _PATIENCE or snapshots[0]["step"] < _WARM_UP_STEPS:
        return {}
    found = {}
    diversity = [line["diversity"] for line in snapshots]
    accuracy = [line["d_accuracy"] for line in snapshots]
    if max(diversity) < COLLAPSED_BELOW:
        found["mode collapse"] = (
            f"mode collapse: the samples are only {diversity[-1]:.0%} as diverse as your pictures; "
            "try a lower --lr-g, --label-smoothing 0.1, or a larger --batch"
        )
    if min(accuracy) > PERFECT_ABOVE and _is_stuck([steps for _, steps in windows]):
        score = _mean(windows[-1][1], "d_fake")
        found["perfect discriminator"] = (
            f"perfect discriminator: it is right on {accuracy[-1]:.1%} of pictures, scores samples {score:.2g} of 1, "
            "and the generator does not catch up; try a higher --lr-g, a lower --lr-d, --skip-d-below 0.2, or "
            "--label-smoothing 0.1"
        )
    if max(accuracy) < LOST_BELOW:
        found["lost discriminator"] = (
            f"dying discriminator: it is right on {accuracy[-1]:.1%} of pictures, hardly better than chance, "
            "so what the generator learns is noise; try a higher --lr-d, a lower --lr-g, or a larger --width"
        )
    return found


def _windows(history: Sequence[Record]) -> list[tuple[Record, list[Record]]]:
    """Every snapshot with the lines on steps since the one before."""
    found: list[tuple[Record, list[Record]]] = []
    steps: list[Record] = []
    for line in history:
        if line["event"] == "step":
            steps.append(line)
        elif line["event"] == "snapshot":
            found.append((line, steps))
            steps = []
    return found


def _is_stuck(windows: Sequence[Sequence[Record]]) -> bool:
    """Whether the discriminator was certain of samples all the time, and the generator's loss has not fallen."""
    if not all(windows) or max(_mean(steps, "d_fake") for steps in windows) >= CERTAIN_BELOW:
        return False
    return _mean(windows[-1], "loss_g") > _FALLS_TO * _mean(windows[0], "loss_g")


def _mean(steps: Sequence[Record], name: str) -> float:
    return math.fsum(line[name] for line in steps) / len(steps)

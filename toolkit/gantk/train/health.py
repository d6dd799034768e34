# SPDX-License-Identifier: Apache-2.0
"""What goes wrong with such trainings, measured: mode collapse, and a discriminator that won or lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

COLLAPSED_BELOW = 0.4
"""Samples that are less diverse than this share of the real pictures' diversity look alike to the eye."""

PERFECT_ABOVE = 0.99
"""A discriminator that is right more often than this has little left to tell the generator."""

LOST_BELOW = 0.55
"""One that is right less often than this tells it no more than chance does."""

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
    snapshots = [line for line in history if line["event"] == "snapshot"][-_PATIENCE:]
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
    if min(accuracy) > PERFECT_ABOVE:
        found["perfect discriminator"] = (
            f"dying gradient: the discriminator is right on {accuracy[-1]:.1%} of pictures, so the generator "
            "learns little from it; try a lower --lr-d, --skip-d-below 0.2, or --label-smoothing 0.1"
        )
    if max(accuracy) < LOST_BELOW:
        found["lost discriminator"] = (
            f"dying discriminator: it is right on {accuracy[-1]:.1%} of pictures, hardly better than chance, "
            "so what the generator learns is noise; try a higher --lr-d, a lower --lr-g, or a larger --width"
        )
    return found

# SPDX-License-Identifier: Apache-2.0
"""What every optimisation of a picture has in common, by PyTorch (`gantk.gatys`) or by an exported step."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from gantk.errors import GantkError
from gantk.files import check_writable
from gantk.runtime.pictures import Pixels, check_suffix
from gantk.stylize.resample import fitted
from gantk.stylize.settings import Settings

_COARSEST = 64  # A picture does not begin smaller: its layers would have few places left to compare.
_FULL_STEPS = 512  # Up to this size all steps are taken; they have done most of their work by then.
_RATE = 0.02  # Adam's.

LBFGS_MEMORY = 12
"""Pairs of differences that L-BFGS keeps, each as large as the picture."""

EXPLODED = 20.0
"""A step of L-BFGS that makes the loss so many times the best is undone."""


@dataclass(frozen=True)
class Losses:
    """The three parts of a loss, each with its weight."""

    content: float
    style: float
    variation: float

    @property
    def total(self) -> float:
        return self.content + self.style + self.variation


@dataclass(frozen=True)
class Optimised:
    """What an optimisation made.

    Args:
        picture: The file.
        size: Width and height.
        steps: Of all sizes together.
        losses: Before the last step.
        seconds: From the first step to the last.
        interrupted: Whether it ended early.
    """

    picture: Path
    size: tuple[int, int]
    steps: int
    losses: Losses
    seconds: float
    interrupted: bool


def plan_sizes(settings: Settings, content: Pixels, smallest: int) -> list[int]:
    """The longer sides from the coarsest on, without those at which a layer would have no features.

    Args:
        settings: The last size, and how many there are.
        content: The picture.
        smallest: The smallest height and width at which the last layer has features.
    """
    sizes = [settings.size]
    limit = settings.scales or 10
    while len(sizes) < limit and (settings.scales or sizes[0] >= 2 * _COARSEST):
        sizes.insert(0, round(sizes[0] / 2))
    while len(sizes) > 1 and min(fitted(content, sizes[0])) < 4 * smallest:
        del sizes[0]
    return sizes


def steps_at(steps: int, longer: int) -> int:
    """How many steps are taken at a size: all up to 512 pixels, half as many with each doubling from there."""
    while longer > _FULL_STEPS:
        steps, longer = steps // 2, longer // 2
    return max(steps, 1)


def adam_rate(given: float | None, number: int, steps: int) -> float:
    """The learning rate of one of Adam's steps: the given one, or 0.02, which in the second half falls to a tenth."""
    if given is not None:
        return given
    return _RATE * (1.9 - 1.8 * number / steps) if number * 2 > steps else _RATE


def check_losses(losses: Losses, number: int) -> None:
    """Raise a `GantkError` where the losses at a step are no number any more."""
    if not isfinite(losses.total):
        raise GantkError(
            f"the loss is {losses.total} at step {number}",
            hint="choose smaller weights, a lower --lr, or --optimizer adam",
        )


def preview_path(out: Path) -> Path:
    """Where previews of `out` go."""
    return out.with_name(f"{out.stem}.preview.png")


def check_target(path: Path, formats: dict[str, str], *, force: bool) -> None:
    """Find out now, not after minutes, whether a file can be written.

    Raises:
        UsageError: Its suffix is none of `formats`.
        GantkError: It exists and is not to be replaced, is a folder, or cannot be written.
    """
    check_suffix(path, formats)
    if path.is_dir():
        raise GantkError(f"`{path}` is a folder; a file is wanted", where=str(path))
    if path.exists() and not force:
        raise GantkError(f"`{path}` exists", where=str(path), hint="--force replaces it")
    check_writable(path)

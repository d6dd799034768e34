# SPDX-License-Identifier: Apache-2.0
"""Differentiable augmentation, without which a discriminator learns a few hundred pictures by heart.

Whatever the discriminator is shown, real pictures and samples, in its own step and in the generator's, is changed at
random first. The gradient flows back through the change, so that the generator learns unchanged pictures: Zhao et al.
(arXiv 2006.10738, section 3), whose kinds and ranges these are. Both learn more slowly at first, and longer.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import UsageError

AUGMENTATIONS = ("color", "translation", "cutout")
"""Brightness, saturation and contrast; a shift by an eighth of the size at most; a square hole of half the size."""

AUTO, ALL, NONE = "auto", ",".join(AUGMENTATIONS), "none"

FEW = 3000
"""Sets of at most so many pictures in colour are augmented where nothing else is asked for: the largest of those that
`benchmarks/results/augmentation.json` shows a gain for. It shows none for grey digits."""


def choose(count: int, channels: int) -> str:
    """What `AUTO` stands for, of so many pictures: all augmentations, or none."""
    return ALL if count <= FEW and channels > 1 else NONE


def parse(text: str) -> tuple[str, ...]:
    """The augmentations that a list with commas names, in its order; ``none`` names none.

    Raises:
        UsageError: One is not of `AUGMENTATIONS`, or named twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    if names == (NONE,):
        return ()
    if not set(names) <= set(AUGMENTATIONS) or len(set(names)) < len(names):
        raise UsageError(
            f"augment is {text!r}; allowed are {AUTO}, {NONE} and a list of {', '.join(AUGMENTATIONS)}, each once",
            where="--augment",
        )
    return names


def augment(pictures: Tensor, names: Sequence[str], draws: torch.Generator) -> Tensor:
    """Change each picture at random in its own way.

    Args:
        pictures: float32[N, C, size, size] in [-1, 1]; they stay as they are.
        names: Of `AUGMENTATIONS`, in the order in which to apply them.
        draws: On the device of the pictures. Without names nothing is drawn.

    Returns:
        float32[N, C, size, size]. Colours may leave [-1, 1]: clipped ones would have no gradient.
    """
    count, size = len(pictures), pictures.shape[-1]
    for name in names:
        if name == "color":
            shares = torch.rand(3, count, generator=draws, device=draws.device)
            pictures = recolour(pictures, shares[0] - 0.5, shares[1] * 2, shares[2] + 0.5)
        elif name == "translation":
            reach = size // 8
            pictures = translate(pictures, _integers(-reach, reach, count, draws))
        else:
            # The middle of an even hole lies between pixels, so it has one place more.
            pictures = cut_out(pictures, _integers(0, size - size // 2 % 2, count, draws))
    return pictures


def recolour(pictures: Tensor, brightness: Tensor, saturation: Tensor, contrast: Tensor) -> Tensor:
    """Change the colours of pictures.

    Args:
        pictures: float32[N, C, H, W].
        brightness: float32[N], what is added to every value; augmentation draws it from [-0.5, 0.5).
        saturation: float32[N], what each pixel's distances from its own grey are multiplied by, of [0, 2); grey
            pictures have none.
        contrast: float32[N], what all distances from the picture's mean are multiplied by, of [0.5, 1.5).
    """
    brightness, saturation, contrast = (
        values.view(-1, 1, 1, 1) for values in (brightness, saturation, contrast)
    )
    pictures = pictures + brightness
    if pictures.shape[1] > 1:
        grey = pictures.mean(1, keepdim=True)
        pictures = torch.lerp(grey, pictures, saturation)
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return torch.lerp(mean, pictures, contrast)


def translate(pictures: Tensor, shifts: Tensor) -> Tensor:
    """Move pictures by whole pixels; where nothing was there is 0, a middle grey.

    Args:
        pictures: float32[N, C, size, size].
        shifts: int64[2, N], pixels down and to the right; augmentation draws an eighth of the size at most.
    """
    # As a grid of places to read at, in units of half the size; reading pixel by pixel takes ten times as long.
    down, right = shifts / -(pictures.shape[-1] / 2)
    one, none = torch.ones_like(down), torch.zeros_like(down)
    maps = torch.stack([one, none, right, none, one, down], 1).view(-1, 2, 3)
    places = F.affine_grid(maps, list(pictures.shape), align_corners=False)
    return F.grid_sample(pictures, places, mode="nearest", padding_mode="zeros", align_corners=False)


def cut_out(pictures: Tensor, centres: Tensor) -> Tensor:
    """Fill a square of half the size with 0, a middle grey.

    Args:
        pictures: float32[N, C, size, size].
        centres: int64[2, N], the row and the column of the middle of each square, of an even one the pixel after it;
            augmentation draws it from the whole picture, and what leaves that is cut off.
    """
    size = pictures.shape[-1]
    hole = size // 2
    starts = (centres - hole // 2)[..., None]
    places = torch.arange(size, device=pictures.device)
    rows, columns = (starts <= places) & (places < starts + hole)
    return pictures.masked_fill((rows[:, :, None] & columns[:, None])[:, None], 0.0)


def _integers(low: int, high: int, count: int, draws: torch.Generator) -> Tensor:
    """int64[2, count] from `low` to `high`, both of which may come."""
    return torch.randint(low, high + 1, (2, count), generator=draws, device=draws.device)

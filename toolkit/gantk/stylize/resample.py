# SPDX-License-Identifier: Apache-2.0
"""Pictures brought to a size, and noise, the same to the last bit as `gantk.gatys` makes them with torch."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image

from gantk.runtime.pictures import Pixels
from gantk.runtime.runner import Array

_SHARPNESS = -0.75  # Of torch's bicubic kernel (Keys 1981), which Pillow's does not share.


def fitted(pixels: Pixels, longer: int) -> tuple[int, int]:
    """The height and width of a picture (H, W, C) whose longer side is `longer`, at least 1 each."""
    height, width = pixels.shape[:2]
    scale = longer / max(height, width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def to_array(pixels: Pixels, size: tuple[int, int]) -> Array:
    """Pixels (H, W, 3) resized with a Lanczos filter, as float32[1, 3, height, width] in [0, 1]."""
    picture = Image.fromarray(pixels, "RGB").resize((size[1], size[0]), Image.Resampling.LANCZOS)
    values = np.asarray(picture, dtype=np.float32).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(values) / np.float32(255)


def to_pixels(picture: Array) -> Pixels:
    """float[1, 3, H, W] as pixels (H, W, 3); what lies outside [0, 1] is clipped."""
    values = np.rint(picture[0].clip(0, 1) * np.float32(255)).astype(np.uint8)
    return np.ascontiguousarray(values.transpose(1, 2, 0))


def enlarge(picture: Array, size: tuple[int, int]) -> Array:
    """float32[1, 3, h, w] at another size, bicubic, kept in [0, 1]."""
    rows, columns = (_cubic(old, new) for old, new in zip(picture.shape[2:], size, strict=True))
    enlarged = np.einsum("ih,nchw,jw->ncij", rows, picture.astype(np.float64), columns, optimize=True)
    return np.ascontiguousarray(enlarged.clip(0, 1).astype(np.float32))


def noise(shape: tuple[int, ...], seed: int) -> Array:
    """float32 uniform in [0, 1): what `torch.rand` draws on a CPU, from the same Mersenne twister."""
    draws = np.random.RandomState(seed).randint(0, 2**32, shape, dtype=np.uint32)
    return (draws & np.uint32(0xFFFFFF)).astype(np.float32) * np.float32(2.0**-24)


def _cubic(old: int, new: int) -> Array:
    """float64[new, old]: the share of each old place in each new one; beyond the borders they are repeated."""
    places = (np.arange(new) + 0.5) * (old / new) - 0.5
    first = np.floor(places).astype(np.int64)
    matrix = np.zeros((new, old))
    for offset in range(-1, 3):
        near = np.clip(first + offset, 0, old - 1)
        np.add.at(matrix, (np.arange(new), near), _kernel(np.abs(places - first - offset)))
    return matrix


def _kernel(distance: Array) -> Any:
    inner = ((_SHARPNESS + 2) * distance - (_SHARPNESS + 3)) * distance**2 + 1
    outer = _SHARPNESS * (((distance - 5) * distance + 8) * distance - 4)
    return np.where(distance <= 1, inner, outer)

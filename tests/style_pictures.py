# SPDX-License-Identifier: Apache-2.0
"""Pictures for tests of stylising."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter

from gantk.runtime.pictures import Pixels


def scene(height: int, width: int, seed: int = 0) -> Pixels:
    """Soft blobs of colour, brighter to the right, so that no part looks like another."""
    rng = np.random.default_rng(seed)
    noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    soft = np.asarray(noise.filter(ImageFilter.GaussianBlur(2)), np.float32)
    ramp = np.linspace(-60, 60, width, dtype=np.float32)[None, :, None]
    return ((soft - 128) * 4 + 128 + ramp).clip(0, 255).astype(np.uint8)


def write_disc(path: Path, height: int, width: int) -> Path:
    """A file of a disc on a gradient."""
    y, x = np.mgrid[:height, :width]
    disc = ((x - width / 2) ** 2 + (y - height / 2) ** 2 < (height * 0.3) ** 2)[..., None]
    pixels = np.where(disc, (220, 160, 40), np.stack([x * 4, y * 5, 200 - x * 2], -1)).astype(np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_stripes(path: Path, side: int) -> Path:
    """A file of red and white stripes."""
    stripes = np.where((np.arange(side) // 4 % 2)[:, None, None], (200, 30, 30), (250, 245, 240))
    Image.fromarray(np.broadcast_to(stripes, (side, side, 3)).astype(np.uint8)).save(path)
    return path

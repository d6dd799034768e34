# SPDX-License-Identifier: Apache-2.0
"""One picture file to a small square uint8 array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from gantk.runtime.decode import UnreadableError, flatten, opened

Pixels = NDArray[np.uint8]


def decode(path: Path, size: int, channels: int) -> Pixels:
    """Decode one picture: upright, on white where it is transparent, its middle square, resized.

    The first picture of an animation is taken. Sixteen-bit greys are scaled, not clipped. The shorter side
    becomes `size` with a Lanczos filter as wide as the reduction asks for, so nothing aliases.

    Args:
        path: As `gantk.runtime.decode.opened` takes it.
        size: The height and width of the result in pixels.
        channels: 1 or 3.

    Returns:
        uint8[channels, size, size].

    Raises:
        UnreadableError: It cannot be read, is cut, is no picture, or is far too large.
    """
    with opened(path) as picture:
        # A JPEG decoder can shrink by 2, 4 or 8 on the way, which saves most of the time for photos.
        picture.draft(None, (2 * size, 2 * size))
        return _shrink(flatten(ImageOps.exif_transpose(picture), "L" if channels == 1 else "RGB"), size)


def decode_grey(pixels: Pixels, size: int, channels: int) -> Pixels:
    """Resize one picture uint8[H, W] as `decode` does."""
    flat = Image.fromarray(pixels)
    return _shrink(flat if channels == 1 else flat.convert("RGB"), size)


def is_grey(path: Path) -> bool:
    """Whether a file's header says that it has no colours; `False` where it cannot be read."""
    try:
        with opened(path) as picture:
            return picture.mode in {"1", "L", "LA"} or picture.mode.startswith("I")
    except UnreadableError:  # `decode` will name the file.
        return False


def _shrink(picture: Image.Image, size: int) -> Pixels:
    """The middle square, resized to uint8[C, size, size]."""
    width, height = picture.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    small = picture.resize((size, size), Image.Resampling.LANCZOS, box=box)
    pixels = np.asarray(small, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

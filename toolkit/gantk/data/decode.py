# SPDX-License-Identifier: Apache-2.0
"""One picture file to a small square uint8 array."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from gantk.runtime.decode import UnreadableError, flatten, opened
from gantk.runtime.pictures import Pixels

LONGEST = 4
"""How many times longer than wide a whole picture may be."""


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
    with _opened(path, 2 * size) as picture:
        return _shrink(flatten(picture, "L" if channels == 1 else "RGB"), size)


def decode_whole(path: Path, size: int) -> Pixels:
    """Decode one colour picture as `decode` does, whole: its shorter side becomes `size`.

    What is more than `LONGEST` times as long as wide loses its ends.

    Returns:
        uint8[3, H, W].

    Raises:
        UnreadableError: As `decode`.
    """
    with _opened(path, 2 * size) as picture:
        return _shrink_whole(flatten(picture, "RGB"), size)


@contextmanager
def _opened(path: Path, enough: int) -> Iterator[Image.Image]:
    """A picture, upright; a shorter side of `enough` pixels is all that is asked for."""
    with opened(path) as picture:
        # A JPEG decoder can shrink by 2, 4 or 8 on the way, which saves most of the time for photos.
        picture.draft(None, (enough, enough))
        yield ImageOps.exif_transpose(picture)


def decode_grey(pixels: Pixels, size: int, channels: int) -> Pixels:
    """Resize one picture uint8[H, W] as `decode` does."""
    flat = Image.fromarray(pixels)
    return _shrink(flat if channels == 1 else flat.convert("RGB"), size)


def has_colours(path: Path) -> bool:
    """Whether a file's header says that it has colours; `False` where it cannot be read."""
    try:
        with opened(path) as picture:
            return picture.mode not in {"1", "L", "LA", "F"} and not picture.mode.startswith("I")
    except UnreadableError:  # `decode` will name the file.
        return False


def _shrink(picture: Image.Image, size: int) -> Pixels:
    """The middle square, resized to uint8[C, size, size]."""
    side = min(picture.size)
    return _resize_middle(picture, (side, side), (size, size))


def _shrink_whole(picture: Image.Image, size: int) -> Pixels:
    """All but the ends of a very long picture, resized to uint8[C, H, W] with a shorter side of `size`."""
    side = min(picture.size)
    width, height = (min(length, LONGEST * side) for length in picture.size)
    return _resize_middle(picture, (width, height), (round(size * width / side), round(size * height / side)))


def _resize_middle(picture: Image.Image, part: tuple[int, int], size: tuple[int, int]) -> Pixels:
    """The middle part of a width and a height, resized to another width and height; channels first."""
    left, top = ((whole - piece) / 2 for whole, piece in zip(picture.size, part, strict=True))
    box = (left, top, left + part[0], top + part[1])
    small = picture.resize(size, Image.Resampling.LANCZOS, box=box)
    pixels = np.asarray(small, dtype=np.uint8)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))

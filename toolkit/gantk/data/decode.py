# SPDX-License-Identifier: Apache-2.0
"""One picture file to a small square uint8 array."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

Pixels = NDArray[np.uint8]

SUFFIXES = (".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".pgm", ".ppm")
MAX_PIXELS = 100_000_000
"""A larger picture is not decoded: a file of some kilobytes can declare one that fills the memory."""

LONGEST = 4
"""How many times longer than wide a whole picture may be."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM")
_WHITE = (255, 255, 255, 255)


class UnreadableError(Exception):
    """A file is not a picture that can be used; the message says why."""


def decode(path: Path, size: int, channels: int) -> Pixels:
    """Decode one picture: upright, on white where it is transparent, its middle square, resized.

    The first picture of an animation is taken. Sixteen-bit greys are scaled, not clipped. The shorter side
    becomes `size` with a Lanczos filter as wide as the reduction asks for, so nothing aliases.

    Args:
        path: A PNG, JPEG, WebP, BMP, GIF, PGM or PPM file.
        size: The height and width of the result in pixels.
        channels: 1 or 3.

    Returns:
        uint8[channels, size, size].

    Raises:
        UnreadableError: It cannot be read, is cut, is no picture, or has more than `MAX_PIXELS`.
    """
    return _decode(path, 2 * size, lambda picture: _shrink(_flatten(picture, channels), size))


def decode_whole(path: Path, size: int) -> Pixels:
    """Decode one colour picture as `decode` does, whole: its shorter side becomes `size`.

    What is more than `LONGEST` times as long as wide loses its ends.

    Returns:
        uint8[3, H, W].

    Raises:
        UnreadableError: As `decode`.
    """
    return _decode(path, 2 * size, lambda picture: _shrink_whole(_flatten(picture, 3), size))


def _decode(path: Path, enough: int, finish: Callable[[Image.Image], Pixels]) -> Pixels:
    """Open a picture, upright, and finish it; a shorter side of `enough` pixels is all that is asked for."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            _check_size(picture)
            # A JPEG decoder can shrink by 2, 4 or 8 on the way, which saves most of the time for photos.
            picture.draft(None, (enough, enough))
            return finish(ImageOps.exif_transpose(picture))
    except UnreadableError:
        raise
    except Image.DecompressionBombError:
        raise UnreadableError(f"it declares far more than {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        raise UnreadableError("its content is not a picture of a known format") from None
    except Exception as error:  # A damaged file can raise anything inside a decoder; it is named and skipped.
        raise UnreadableError(str(error) or type(error).__name__) from error


def decode_grey(pixels: Pixels, size: int, channels: int) -> Pixels:
    """Resize one picture uint8[H, W] as `decode` does."""
    flat = Image.fromarray(pixels)
    return _shrink(flat if channels == 1 else flat.convert("RGB"), size)


def is_grey(path: Path) -> bool:
    """Whether a file's header says that it has no colours; `False` where it cannot be read."""
    try:
        with Image.open(path, formats=_FORMATS) as picture:
            return picture.mode in {"1", "L", "LA"} or picture.mode.startswith("I")
    except Exception:  # As in `decode`, which will name the file.
        return False


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"it declares {width} x {height} pixels; at most {MAX_PIXELS} are decoded")


def _flatten(picture: Image.Image, channels: int) -> Image.Image:
    """Without transparency, in the mode of `channels`, with eight bits a channel."""
    mode = "L" if channels == 1 else "RGB"
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray(((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
    elif picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, _WHITE)
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture if picture.mode == mode else picture.convert(mode)


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

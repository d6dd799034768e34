# SPDX-License-Identifier: Apache-2.0
"""Pictures of any kind in, pictures of the same kind out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageOps

from gantk.errors import GantkError
from gantk.files import check_file, replacing
from gantk.runtime.decode import UnreadableError, flatten, opened
from gantk.runtime.pictures import FORMATS, Pixels, check_suffix

QUALITY = 92
_SIDE_LIMITS = {"WEBP": 16383, "JPEG": 65500}
_STRIP_ROWS = 1024


@dataclass(frozen=True)
class Picture:
    """A decoded picture, upright, and what goes with it to the output.

    Args:
        pixels: uint8[H, W, 3]; what is transparent lies on white.
        alpha: uint8[H, W], where it is transparent somewhere.
        icc: The colour profile of `pixels`, if there is one.
        exif: What the camera wrote, without orientation and thumbnail.
    """

    pixels: Pixels
    alpha: Pixels | None = None
    icc: bytes | None = None
    exif: bytes | None = None


def read(path: Path, size: int | None = None) -> Picture:
    """Read one picture: grey, colour, CMYK, palette or 16-bit, transparent or not, turned by EXIF or not.

    Args:
        path: The file; see `gantk.runtime.decode.opened`.
        size: The longest side in pixels to reduce it to; smaller pictures stay as they are.

    Raises:
        GantkError: It does not exist, is no picture, is cut, or is far too large.
    """
    check_file(path)
    try:
        with opened(path) as picture:
            if size is not None:
                picture.draft(None, (size, size))
            icc = picture.info.get("icc_profile") if picture.mode in ("RGB", "RGBA", "P") else None
            upright = ImageOps.exif_transpose(picture)
            exif = None if picture.format == "TIFF" else _kept_exif(upright)
            pixels = np.asarray(_reduced(flatten(upright), size))
            return Picture(pixels, _alpha(upright, size), icc, exif)
    except UnreadableError as error:
        reason = str(error).replace(str(path), path.name)
        raise GantkError(f"`{path}` cannot be read as a picture: {reason}", where=str(path)) from error


def write(path: Path, picture: Picture, quality: int = QUALITY) -> None:
    """Write a picture by its name's suffix, whole or not at all; a JPEG has no transparency.

    Args:
        path: Ends in one of `gantk.runtime.pictures.FORMATS`.
        picture: What to write.
        quality: Of JPEG and WebP, 1 to 100; a WebP of 100 is lossless.

    Raises:
        UsageError: Another suffix.
        GantkError: It cannot be written, or is larger than the format allows.
    """
    kind = check_suffix(path, FORMATS)
    height, width = picture.pixels.shape[:2]
    if max(height, width) > _SIDE_LIMITS.get(kind, max(height, width)):
        raise GantkError(
            f"a {kind} has sides of up to {_SIDE_LIMITS[kind]} pixels; this picture has {width} x {height}",
            where=str(path),
            hint=f"-o {path.with_suffix('.png').name}",
        )
    image = Image.fromarray(picture.pixels)
    if picture.alpha is not None and kind != "JPEG":
        image.putalpha(Image.fromarray(picture.alpha))
    options: dict[str, Any] = {"icc_profile": picture.icc, "exif": picture.exif}
    if kind == "JPEG":
        options |= {"quality": quality, "subsampling": 0 if quality >= 90 else 2}
    elif kind == "WEBP":
        options |= {"quality": quality, "lossless": quality == 100}
    with replacing(path) as partial:
        image.save(partial, format=kind, **{key: value for key, value in options.items() if value})


def keep_colors(painted: Pixels, content: Pixels) -> Pixels:
    """The brightness of one picture with the colours of another, both uint8[H, W, 3].

    The luminance channel of YCbCr is replaced (Gatys et al., arXiv 1606.05897, section 3.2).
    """
    result = np.empty_like(painted)
    for start in range(0, len(painted), _STRIP_ROWS):  # Without a second picture of the whole size.
        rows = slice(start, start + _STRIP_ROWS)
        brightness = Image.fromarray(painted[rows]).convert("YCbCr").getchannel(0)
        _, blue, red = Image.fromarray(content[rows]).convert("YCbCr").split()
        result[rows] = np.asarray(Image.merge("YCbCr", (brightness, blue, red)).convert("RGB"))
    return result


def reduce(pixels: Pixels, size: int | None) -> Pixels:
    """Pixels [H, W, 3] with a longest side of at most `size`."""
    return pixels if size is None else np.asarray(_reduced(Image.fromarray(pixels), size))


def _alpha(picture: Image.Image, size: int | None) -> Pixels | None:
    if not picture.has_transparency_data:
        return None
    alpha = np.asarray(_reduced(picture.convert("RGBA").getchannel("A"), size))
    return None if alpha.min() == 255 else alpha


def _kept_exif(picture: Image.Image) -> bytes | None:
    exif = picture.getexif()
    exif.get_ifd(ExifTags.IFD.IFD1).clear()
    exif.pop(ExifTags.Base.Orientation, None)
    return exif.tobytes() if exif else None


def _reduced(picture: Image.Image, size: int | None) -> Image.Image:
    width, height = picture.size
    if size is None or max(width, height) <= size:
        return picture
    scale = size / max(width, height)
    smaller = (max(1, round(width * scale)), max(1, round(height * scale)))
    return picture.resize(smaller, Image.Resampling.LANCZOS)

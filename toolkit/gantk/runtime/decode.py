# SPDX-License-Identifier: Apache-2.0
"""Picture files of every kind: found in folders, opened within limits, brought to eight bits a channel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from gantk.errors import GantkError
from gantk.files import regular

SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff",
)  # fmt: skip
MAX_PIXELS = 100_000_000
"""A larger picture is not decoded: a file of some kilobytes can declare one that fills the memory."""

_FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "PPM", "TIFF")
_WHITE = (255, 255, 255, 255)


class UnreadableError(Exception):
    """A file is not a picture that can be used; the message says why."""


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture whose size is sane; what goes wrong inside the block too is an `UnreadableError`.

    Pixels are decoded when they are first used, so that the caller may ask for a draft before.

    Args:
        path: A PNG, JPEG, WebP, BMP, GIF, PGM, PPM or TIFF file; of an animation the first picture counts.

    Raises:
        UnreadableError: It cannot be read, is no regular file, is cut, is no picture, or has more than `MAX_PIXELS`.
    """
    try:
        with open(path, "rb", opener=regular) as stream, Image.open(stream, formats=_FORMATS) as picture:
            _check_size(picture)
            yield picture
    except UnreadableError:
        raise
    except GantkError as error:
        raise UnreadableError(error.what) from error
    except Image.DecompressionBombError:
        raise UnreadableError(f"it declares far more than {MAX_PIXELS} pixels") from None
    except UnidentifiedImageError:
        known = ", ".join(_FORMATS)
        raise UnreadableError(f"its content is not a picture of a known format ({known})") from None
    except OSError as error:
        raise UnreadableError(error.strerror or str(error)) from error
    except Exception as error:  # A damaged file can raise anything inside a decoder.
        raise UnreadableError(str(error) or type(error).__name__) from error


def flatten(picture: Image.Image, mode: str = "RGB") -> Image.Image:
    """A picture in `mode`, ``RGB`` or ``L``: on white where it is transparent, 16-bit greys scaled, not clipped.

    Raises:
        UnreadableError: Its values are floating-point numbers.
    """
    if picture.mode == "F":
        raise UnreadableError(
            "its values are floating-point numbers, and it does not say which of them is white"
        )
    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.int64)
        picture = Image.fromarray(((values.clip(0, 65535) * 255 + 32767) // 65535).astype(np.uint8))
    elif picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, _WHITE)
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture if picture.mode == mode else picture.convert(mode)


def has_more(path: Path) -> bool:
    """Whether a file holds pictures after its first, as animations do; `False` where it cannot be read."""
    try:
        with opened(path) as picture:
            # Many a camera puts a preview into its JPEG.
            return picture.format != "MPO" and getattr(picture, "is_animated", False)
    except UnreadableError:
        return False


def find_pictures(folder: Path, *, without: Path | None = None, hint: str | None = None) -> list[Path]:
    """The picture files in a folder and its folders, sorted.

    Runs of gantk inside it are passed by: ``runs`` lies among the pictures where it was begun there, and curves and
    grids of samples are no pictures to learn from.

    Args:
        folder: Where to look.
        without: A folder inside it that is passed by.
        hint: What to do where there is none.

    Raises:
        GantkError: There is none.
        OSError: The folder cannot be read.
    """
    entries, files, seen = 0, [], set() if without is None else {os.path.realpath(without)}
    os.scandir(folder).close()  # What may not be looked into is not empty; `walk` would pass it by.
    for root, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        passed_by = Path(root) != folder and "run.json" in names and "checkpoints" in folders
        if passed_by or real in seen:  # Also a link that leads back up.
            folders.clear()
            continue
        seen.add(real)
        # Hidden names are not pictures, whatever their suffix: macOS puts `._name.jpg` beside `name.jpg`.
        folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
        shown = [name for name in names if not name.startswith(".")]
        entries += len(shown)
        files += [Path(root, name) for name in shown if name.lower().endswith(SUFFIXES)]
    if not files:
        what = f"has {entries} file{'s' * (entries > 1)} and no picture among them" if entries else "is empty"
        known = ", ".join(suffix[1:] for suffix in SUFFIXES)
        raise GantkError(f"`{folder}` {what}; {known} are known", where=str(folder), hint=hint)
    return sorted(files)


def _check_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise UnreadableError(f"it declares {width} x {height} pixels; at most {MAX_PIXELS} are decoded")

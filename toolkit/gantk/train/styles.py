# SPDX-License-Identifier: Apache-2.0
"""Pictures to take style from, and sheets that show what a network makes of them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gantk.bundle import as_printable
from gantk.data.decode import decode_whole
from gantk.errors import GantkError
from gantk.files import check_file
from gantk.runtime.decode import UnreadableError
from gantk.runtime.pictures import Pixels, grid, save


def read_style(path: str, size: int) -> Pixels:
    """Read a picture to take style from.

    Args:
        path: Of a picture of any size and mode.
        size: The height or width in pixels, whichever is smaller, to resize it to.

    Returns:
        uint8[3, H, W].

    Raises:
        GantkError: It is missing or cannot be read.
    """
    check_file(Path(path))
    try:
        return decode_whole(Path(path), size)
    except UnreadableError as error:
        raise GantkError(
            f"the style `{path}` cannot be read as a picture: {error}",
            where=path,
            hint="give a whole PNG, JPEG or WebP file",
        ) from error


def name_styles(paths: Sequence[str]) -> tuple[str, ...]:
    """A name for each style picture: its file's, with a number where it was taken."""
    names: list[str] = []
    for path in paths:
        stem = name = as_printable(Path(path).stem or path)
        number = 1
        while name in names:
            number += 1
            name = f"{stem}-{number}"
        names.append(name)
    return tuple(names)


def fingerprint(pixels: Pixels) -> str:
    """A hash by which a resumed run knows a picture again."""
    return hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:16]


def middle(pixels: Pixels, size: int) -> Pixels:
    """The middle of pictures uint8[..., H, W], `size` pixels high and wide."""
    top, left = ((length - size) // 2 for length in pixels.shape[-2:])
    return pixels[..., top : top + size, left : left + size]


def save_sheet(path: Path, contents: Pixels, styles: Pixels, painted: Sequence[Tensor]) -> Pixels:
    """Save a sheet: styles in the first row, contents in the first column, and each painted in each.

    Args:
        path: Of the PNG file.
        contents: uint8[N, 3, size, size].
        styles: uint8[S, 3, size, size].
        painted: The contents in each style: float[N, 3, size, size] in [0, 1]; what lies outside is clipped.

    Returns:
        The sheet, uint8[H, W, 3].
    """
    blank = np.full_like(styles[:1], 255)
    columns = [_pixels(pictures) for pictures in painted]
    rows = [blank, styles]
    for n, content in enumerate(contents):
        rows += [content[None], *(pictures[n : n + 1] for pictures in columns)]
    sheet = grid(np.concatenate(rows).transpose(0, 2, 3, 1), columns=1 + len(styles))
    save(path, sheet)
    return sheet


def _pixels(pictures: Tensor) -> Pixels:
    pixels: Pixels = pictures.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    return pixels

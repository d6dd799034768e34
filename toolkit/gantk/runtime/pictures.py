# SPDX-License-Identifier: Apache-2.0
"""From tensors to pixels, grids and files, and through the latent space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gantk.errors import GantkError, UsageError
from gantk.files import check_file, replacing
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

if TYPE_CHECKING:
    from PIL.Image import Image

Pixels = NDArray[np.uint8]

FORMATS = {".png": "PNG", ".webp": "WEBP", ".jpg": "JPEG", ".jpeg": "JPEG"}
ANIMATED_FORMATS = {".gif": "GIF", ".webp": "WEBP"}
_MOST_CLASSES_SHOWN = 16
GIF_FPS_LIMIT = 50
"""Browsers slow down pictures that ask for less than 20 ms."""

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def to_pixels(
    array: Array, spec: TensorSpec | tuple[float, float] | None = None, layout: str | None = None
) -> Pixels:
    """Turn what a network puts out into pixels.

    Args:
        array: One picture or several: (C, H, W), (H, W, C), (N, C, H, W) or (N, H, W, C), 1, 3 or 4 channels.
        spec: The tensor's description, or the values of black and white; (-1, 1) where nothing is known, and
            (0, 255) for uint8.
        layout: ``NCHW`` or ``NHWC``; by default that of `spec`, else the one that fits the channels.

    Returns:
        Pixels of shape (N, H, W, C), 0..255, rounded to the nearest, halves to even; what lies outside the
        range is clipped.

    Raises:
        GantkError: The array is not pictures, or has values that are not finite.
    """
    array = np.asarray(array)
    batch = array[None] if array.ndim == 3 else array
    if batch.ndim != 4:
        raise GantkError(f"an array of shape {list(array.shape)} is no picture; 3 or 4 axes are wanted")
    limits, declared = (spec.range, spec.layout) if isinstance(spec, TensorSpec) else (spec, None)
    batch = _channels_last(batch, layout or declared)
    if batch.dtype == np.uint8 and limits in (None, (0.0, 255.0)):
        return np.ascontiguousarray(batch)
    low, high = limits or (-1.0, 1.0)
    values = (batch.astype(np.float32) - low) * (255.0 / (high - low))
    if not np.isfinite(values).all():
        raise GantkError("the pictures have values that are NaN or infinite; they would be black or noise")
    pixels: Pixels = np.rint(values).clip(0, 255).astype(np.uint8)
    return pixels


def class_columns(classes: int) -> int | None:
    """The columns of a grid that shows each class in its own; `None` where there are none, or too many."""
    return classes if 2 <= classes <= _MOST_CLASSES_SHOWN else None


def grid(pixels: Pixels, columns: int | None = None, padding: int = 2) -> Pixels:
    """Lay pictures out in rows on black.

    Args:
        pixels: (N, H, W, C), N at least 1.
        columns: Pictures in a row; by default about the square root of N, so that the grid is square.
        padding: Black pixels between pictures and around them.

    Returns:
        One picture (H', W', C).
    """
    count, height, width, channels = pixels.shape
    if count < 1 or (columns is not None and columns < 1):
        raise GantkError(f"a grid of {count} pictures in {columns} columns; at least 1 of each is wanted")
    columns = min(columns or math.ceil(math.sqrt(count)), count)
    rows = math.ceil(count / columns)
    cells = np.zeros((rows * columns, height + padding, width + padding, channels), np.uint8)
    cells[:count, :height, :width] = pixels
    sheet = cells.reshape(rows, columns, height + padding, width + padding, channels).swapaxes(1, 2)
    sheet = sheet.reshape(rows * (height + padding), columns * (width + padding), channels)
    return np.pad(sheet, ((padding, 0), (padding, 0), (0, 0)))


def save(path: str | Path, pixels: Pixels) -> None:
    """Save one picture (H, W, C) as PNG, lossless WebP or JPEG, by the name's suffix; whole or not at all.

    Raises:
        UsageError: Another suffix.
        GantkError: It cannot be written.
    """
    path = Path(path)
    kind = check_suffix(path, FORMATS)
    per_format: dict[str, dict[str, Any]] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 95}}
    options = per_format.get(kind, {})
    picture = _image(pixels)
    with replacing(path) as partial:
        picture.save(partial, format=kind, **options)


def save_animation(path: str | Path, frames: Sequence[Pixels], fps: float = 20.0) -> None:
    """Save pictures (H, W, C) of one size as an endless animated GIF or WebP, by the name's suffix.

    Raises:
        UsageError: Another suffix, or a rate that the format does not have.
        GantkError: It cannot be written.
    """
    path = Path(path)
    kind = check_suffix(path, ANIMATED_FORMATS)
    if not 0 < fps <= (GIF_FPS_LIMIT if kind == "GIF" else 1000):
        raise UsageError(
            f"{fps:g} frames a second; a {kind} has up to {GIF_FPS_LIMIT if kind == 'GIF' else 1000}"
        )
    # GIF counts time in hundredths of a second.
    duration_ms = max(20, round(100 / fps) * 10) if kind == "GIF" else max(1, round(1000 / fps))
    options: dict[str, Any] = {"quality": 90} if kind == "WEBP" else {"optimize": False}
    first, *others = [_image(frame) for frame in frames]
    with replacing(path) as partial:
        first.save(
            partial, format=kind, save_all=True, append_images=others, duration=duration_ms, loop=0, **options
        )


def load(path: str | Path) -> Pixels:
    """Read one picture file as (1, H, W, 3) pixels, upright; transparency is laid on white.

    Raises:
        GantkError: It is missing, not a picture, cut short, or far too large.
    """
    from PIL import ImageOps

    from gantk.runtime.decode import UnreadableError, flatten, opened

    path = Path(path)
    check_file(path)
    try:
        with opened(path) as picture:
            return np.asarray(flatten(ImageOps.exif_transpose(picture)))[None]
    except UnreadableError as error:
        raise GantkError(f"`{path}` cannot be read as a picture: {error}", where=str(path)) from error


def check_suffix(path: Path, known: dict[str, str]) -> str:
    """The format that a file's suffix stands for."""
    kind = known.get(path.suffix.lower())
    if kind is None:
        what = f"ends in {path.suffix!r}" if path.suffix else "has no suffix"
        raise UsageError(f"`{path}` {what}; known are {', '.join(known)}", where=str(path))
    return kind


def slerp(start: Array, end: Array, share: float) -> Array:
    """Interpolate along the arc between two latents, each of shape (..., size).

    Gaussian latents of high dimension lie close to a sphere; a straight line between two would leave it
    (White, "Sampling Generative Networks", arXiv 1609.04468, section 2.1; Shoemake 1985).
    """
    norms = np.linalg.norm(start, axis=-1, keepdims=True) * np.linalg.norm(end, axis=-1, keepdims=True)
    cosine = np.clip((start * end).sum(-1, keepdims=True) / np.maximum(norms, 1e-12), -1.0, 1.0)
    angle = np.arccos(cosine)
    sine = np.sin(angle)
    straight = sine < 1e-4  # Parallel, where every arc is the line, or opposite, where no arc is special.
    safe = np.where(straight, 1.0, sine)
    before = np.where(straight, 1.0 - share, np.sin((1.0 - share) * angle) / safe)
    after = np.where(straight, share, np.sin(share * angle) / safe)
    return np.asarray(before * start + after * end, dtype=start.dtype)


def walk(stops: Array, frames: int) -> Array:
    """A closed path through latents, at even steps.

    Args:
        stops: (K, ..., size), K at least 2.
        frames: The number of steps; after the last comes the first again.

    Returns:
        Latents of shape (frames, ..., size).
    """
    count = len(stops)
    places = [divmod(frame * count / frames, 1.0) for frame in range(frames)]
    return np.stack([slerp(stops[int(leg)], stops[(int(leg) + 1) % count], share) for leg, share in places])


def _channels_last(batch: Array, layout: str | None) -> Array:
    if layout not in (None, "NCHW", "NHWC"):
        raise GantkError(f"layout {layout!r} is not of a picture; NCHW and NHWC are")
    if layout is None:
        first, last = batch.shape[1] in _MODES, batch.shape[3] in _MODES
        # Where both fit, floats come from networks and bytes from picture files.
        layout = "NCHW" if first and not (last and batch.dtype == np.uint8) else "NHWC"
    batch = batch.transpose(0, 2, 3, 1) if layout == "NCHW" else batch
    if batch.shape[3] not in _MODES:
        raise GantkError(f"pictures with {batch.shape[3]} channels, as {layout}; 1, 3 or 4 are wanted")
    return batch


def _image(pixels: Array) -> Image:
    from PIL import Image

    mode: Any = _MODES[pixels.shape[2]]
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if mode == "L" else pixels), mode)

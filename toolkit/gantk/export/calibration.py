# SPDX-License-Identifier: Apache-2.0
"""What int8 and fp8 take the ranges of tensors from: the user's pictures, as the inputs of a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gantk.data.decode import decode
from gantk.data.pictures import find_source
from gantk.errors import GantkError, UsageError
from gantk.runtime.arrays import random_feeds
from gantk.runtime.decode import UnreadableError
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
"""How a tensor's range follows from its values, by the names of ONNX Runtime."""

SIDE = 256
"""Height and width of the pictures that ranges are taken from."""


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of tensors come from.

    Args:
        folder: Of pictures, for networks that take pictures.
        count: How many of them; spread evenly over the folder.
        method: One of `METHODS`.
    """

    folder: Path | None = None
    count: int = 32
    method: str = "minmax"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"the calibration {self.method!r} is unknown; known are {', '.join(METHODS)}",
                where="--calibration",
            )
        if self.count < 1:
            raise UsageError(f"{self.count} pictures; at least 1 is wanted", where="--calibrate-count")


def calibration_feeds(
    inputs: Sequence[TensorSpec], calibration: Calibration, precision: str = "int8"
) -> list[dict[str, Array]]:
    """Inputs to take ranges from: the folder's pictures, and for inputs that are none random ones that suit.

    Raises:
        UsageError: There are pictures among the inputs and no folder, or a folder and none among the inputs.
        GantkError: The folder has no picture that can be read.
    """
    drawn = [spec for spec in inputs if spec.picture_axes is not None]
    if drawn and calibration.folder is None:
        raise UsageError(
            f"{precision} wants pictures to calibrate {', '.join(spec.name for spec in drawn)} with",
            where=f"--precision {precision}",
            hint="--calibrate DIR, a folder of pictures such as the network will get",
        )
    if calibration.folder is not None and not drawn:
        raise UsageError(
            f"the network takes no pictures, so that those of `{calibration.folder}` are of no use",
            where="--calibrate",
            hint=f"leave it out: {precision} is calibrated with random {', '.join(spec.name for spec in inputs)}",
        )
    sizes = {"N": 1}
    for spec in drawn:
        for axis in spec.picture_axes or ():
            if isinstance(symbol := spec.shape[axis], str):
                sizes[symbol] = max(SIDE, spec.smallest)
    feeds = [random_feeds(inputs, sizes, seed=seed) for seed in range(calibration.count)]
    if calibration.folder is not None:
        count = len(drawn) * calibration.count
        pictures = _read(calibration.folder, count, max(SIDE, *(spec.smallest for spec in drawn)))
        feeds = feeds[: max(1, len(pictures) // len(drawn))]
        for index, feed in enumerate(feeds):
            for offset, spec in enumerate(drawn):
                pixels = pictures[(index * len(drawn) + offset) % len(pictures)]
                feed[spec.name] = _as_input(pixels, spec, feed[spec.name])
    return feeds


def _read(folder: Path, count: int, side: int) -> list[Array]:
    """Up to `count` pictures of a folder, spread evenly, uint8 [3, side, side]."""
    try:
        files = find_source(folder).files  # None where it is a file of digits.
    except GantkError as error:
        raise GantkError(
            error.what, where=error.where, hint="--calibrate DIR, a folder of pictures"
        ) from error
    spread = np.linspace(0, max(len(files) - 1, 0), min(count, len(files))).astype(np.int64).tolist()
    pictures: list[Array] = []
    reason = "there is none"
    for index in dict.fromkeys([*spread, *range(len(files))]):  # The others where one of these is broken.
        if len(pictures) == count:
            break
        try:
            pictures.append(decode(files[index], side, 3))
        except UnreadableError as error:
            reason = str(error)
    if not pictures:
        raise GantkError(
            f"no picture of `{folder}` can be read: {reason}", where=str(folder), hint="--calibrate DIR"
        )
    return pictures


def _as_input(pixels: Array, spec: TensorSpec, like: Array) -> Array:
    """A picture uint8 [3, H, W] as an input wants it."""
    axes = (1, 2, 0) if spec.layout == "NHWC" else (0, 1, 2)
    picture = np.ascontiguousarray(pixels.transpose(axes)[None])
    if like.dtype == np.uint8:
        return picture
    low, high = spec.range or (0.0, 1.0)
    scaled: Array = (low + (high - low) * picture.astype(np.float64) / 255).astype(like.dtype)
    return scaled

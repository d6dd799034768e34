# SPDX-License-Identifier: Apache-2.0
"""The inputs that tell the ranges of a network's tensors, from the user's pictures, and others that judge the file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gantk.bundle import Calibrated
from gantk.errors import GantkError, UsageError
from gantk.files import named_errors
from gantk.runtime.arrays import random_feeds
from gantk.runtime.decode import UnreadableError, find_pictures
from gantk.runtime.runner import Array, numpy_dtype
from gantk.tensors import TensorSpec

METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
"""How a tensor's range follows from its values, by the names of ONNX Runtime."""

SIDE = 256
"""Height and width of the pictures that ranges are taken from."""

HELD_OUT = 3
"""How many inputs judge, and do not calibrate; of a few a quarter at most, for ranges want more than a verdict."""

_SEED = 2000
"""Of the first random input; `make_feeds` draws those that every file is compared by with 0, 1, ..., and from 1000."""

_HINT = "--calibrate wants a folder of pictures such as the network will get"

Feeds = dict[str, Array]


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


@dataclass(frozen=True)
class CalibrationFeeds:
    """What was found to calibrate with, a batch of one each.

    Args:
        calibrating: The inputs that ranges are taken from.
        judging: Others, by which the file is compared with PyTorch; none where there are too few for both.
        kind: What one of them is, in words.
        unreadable: The picture files that were passed by, each with the reason.
        unused: Of a folder that the network has no use for, why not.
    """

    calibrating: Sequence[Feeds]
    judging: Sequence[Feeds]
    kind: str
    unreadable: Sequence[tuple[str, str]] = ()
    unused: str | None = None

    @property
    def judges(self) -> Sequence[Feeds]:
        """What judges the file: of too few those that calibrate."""
        return self.judging or self.calibrating

    def told(self, wanted: int) -> str:
        """How many there are of those `wanted`, and what was passed by, as the end of a sentence."""
        used, others = len(self.calibrating), len(self.judging)
        short = f" of {wanted} wanted" if used < wanted else ""
        judges = f"{others} other{'s' * (others > 1)}" if others else "the same"
        parts = [f"calibrated with {used} {self.kind}{'s' * (used > 1)}{short}, judged by {judges}"]
        if self.unreadable:
            (name, reason), count = self.unreadable[0], len(self.unreadable)
            first = "the first " if count > 1 else ""
            parts.append(f"{count} file{'s' * (count > 1)} could not be read, {first}`{name}`: {reason}")
        if self.unused:
            parts.append(self.unused)
        return "; ".join(parts)

    def facts(self, asked: Calibration) -> Calibrated:
        """The same for the manifest."""
        counts = (len(found) for found in (self.calibrating, self.judging, self.unreadable))
        return Calibrated(asked.method, asked.count, *counts)


def calibration_feeds(
    inputs: Sequence[TensorSpec], calibration: Calibration, precision: str = "int8"
) -> CalibrationFeeds:
    """Inputs to take ranges from: the folder's pictures, and for inputs that are none random ones that suit.

    Args:
        inputs: Of the network.
        calibration: What is asked for; some more are drawn, to judge.
        precision: For the errors.

    Raises:
        UsageError: There are pictures among the inputs, and no folder.
        GantkError: The folder is none, or has no picture that can be read.
    """
    drawn = [spec for spec in inputs if spec.picture_axes is not None]
    folder = calibration.folder
    if drawn and folder is None:
        raise UsageError(
            f"{precision} wants pictures to calibrate {', '.join(f'`{spec.name}`' for spec in drawn)} with",
            where=f"--precision {precision}",
            hint="--calibrate DIR, a folder of pictures such as the network will get",
        )
    wanted = calibration.count + HELD_OUT
    if not drawn or folder is None:
        unused = f"`{folder}` is not used, for the network takes no pictures" if folder is not None else None
        return parted(_random(inputs, wanted), calibration.count, "random input", unused=unused)
    side = max(SIDE, *(spec.smallest for spec in drawn))
    pictures, unreadable = _read(folder, wanted * len(drawn), side)
    others = [spec for spec in inputs if spec.picture_axes is None]
    found = _random(others, max(1, len(pictures) // len(drawn)))
    _add(found, drawn, pictures)
    kind = {1: "picture", 2: "pair"}.get(len(drawn), "group")
    return parted(found, calibration.count, kind, unreadable)


def parted(
    feeds: Sequence[Feeds],
    count: int,
    kind: str,
    unreadable: Sequence[tuple[str, str]] = (),
    unused: str | None = None,
) -> CalibrationFeeds:
    """Up to `count` inputs to calibrate with, and the last ones to judge."""
    held = max(len(feeds) - count, min(HELD_OUT, len(feeds) // 4))
    used = len(feeds) - held
    return CalibrationFeeds(feeds[:used], feeds[used:], kind, unreadable, unused)


def _random(inputs: Sequence[TensorSpec], count: int) -> list[Feeds]:
    return [random_feeds(inputs, {"N": 1}, seed=_SEED + index) for index in range(count)]


def _add(feeds: Sequence[Feeds], drawn: Sequence[TensorSpec], pictures: Sequence[Array]) -> None:
    """Put pictures to other inputs, one after the other, from the first again where they end."""
    for index, feed in enumerate(feeds):
        for offset, spec in enumerate(drawn):
            feed[spec.name] = _as_input(pictures[(index * len(drawn) + offset) % len(pictures)], spec)


def _read(folder: Path, count: int, side: int) -> tuple[list[Array], list[tuple[str, str]]]:
    """Up to `count` pictures of a folder, spread evenly, uint8 [3, side, side]; and the files that are none."""
    from gantk.data.decode import decode  # Beside it is what wants PyTorch.

    files = _find(folder)
    pictures: list[Array] = []
    unreadable: list[tuple[str, str]] = []
    for path in dict.fromkeys([*spread(files, count), *files]):  # The others where one of these is broken.
        if len(pictures) == count:
            break
        try:
            pictures.append(decode(path, side, 3))
        except UnreadableError as error:
            unreadable.append((path.name, str(error).replace(str(path), path.name)))
    if not pictures:
        name, reason = unreadable[0]
        raise GantkError(
            f"none of the {len(files)} picture files in `{folder}` can be read; `{name}`: {reason}",
            where=str(folder),
            hint=_HINT,
        )
    return pictures, unreadable


def spread(files: Sequence[Path], count: int) -> list[Path]:
    """Up to `count` files, evenly over all of them."""
    places = np.linspace(0, len(files) - 1, min(count, len(files))).astype(np.int64)
    return [files[place] for place in places.tolist()]


def _find(folder: Path) -> list[Path]:
    """The picture files in a folder and in those within it."""
    with named_errors(folder, "read"):
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise GantkError(f"`{folder}` {what}", where=str(folder), hint=_HINT)
        return find_pictures(folder, hint=_HINT)


def _as_input(pixels: Array, spec: TensorSpec) -> Array:
    """A picture uint8 [3, H, W] as an input wants it."""
    axes = (1, 2, 0) if spec.layout == "NHWC" else (0, 1, 2)
    picture = np.ascontiguousarray(pixels.transpose(axes)[None])
    if spec.dtype == "uint8":
        return picture
    low, high = spec.range or (0.0, 1.0)
    scaled: Array = (low + (high - low) * picture.astype(np.float64) / 255).astype(numpy_dtype(spec))
    return scaled

# SPDX-License-Identifier: Apache-2.0
"""The inputs that tell the ranges of a network from elsewhere, of which nothing says what its pictures are."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gantk.errors import GantkError, UsageError
from gantk.export.calibration import HELD_OUT, Calibration, CalibrationFeeds, Feeds, parted, spread
from gantk.files import named_errors, read_bytes
from gantk.runtime.arrays import load_input, random_feeds
from gantk.tensors import TensorSpec

_SUFFIXES = (".npy", ".npz")
_SEED = 2000
_HINT = "--calibrate wants a folder of arrays such as the network will get, each a file: numpy.save, or savez by names"


def array_feeds(
    inputs: Sequence[TensorSpec], calibration: Calibration, sizes: Mapping[str, int], precision: str
) -> CalibrationFeeds:
    """Inputs to take ranges from: the folder's arrays, or random ones where none may be a picture.

    Args:
        inputs: Of the network.
        calibration: What is asked for; some more are drawn, to judge.
        sizes: What the symbols of the inputs stand for in random ones.
        precision: For the errors.

    Raises:
        UsageError: An input may be pictures, and there is no folder.
        GantkError: The folder is none, has no arrays, or one that is not for this network.
    """
    wanted = calibration.count + HELD_OUT
    if calibration.folder is not None:
        found = [_read(path, inputs) for path in spread(_find(calibration.folder), wanted)]
        return parted(found, calibration.count, "array" if len(inputs) == 1 else "group")
    pictures = [spec.name for spec in inputs if len(spec.shape) == 4]
    if pictures:
        raise UsageError(
            f"{precision} takes its ranges from what {', '.join(pictures)} will get, and nothing says what that is",
            where=f"--precision {precision}",
            hint=_HINT,
        )
    random = [random_feeds(inputs, sizes, _SEED + index) for index in range(wanted)]
    return parted(random, calibration.count, "random input")


def _find(folder: Path) -> list[Path]:
    """The files of arrays in a folder and in those within it."""
    with named_errors(folder, "read"):
        if not folder.is_dir():
            what = "is a file" if folder.exists() else "does not exist"
            raise GantkError(f"`{folder}` {what}", where=str(folder), hint=_HINT)
        files = sorted(
            path for path in folder.rglob("*") if path.suffix.lower() in _SUFFIXES and path.is_file()
        )
    if not files:
        raise GantkError(f"`{folder}` has no files {' or '.join(_SUFFIXES)}", where=str(folder), hint=_HINT)
    return files


def _read(path: Path, inputs: Sequence[TensorSpec]) -> Feeds:
    names = [spec.name for spec in inputs]
    if path.suffix.lower() == ".npy":
        if len(inputs) != 1:
            raise GantkError(
                f"`{path}` is one array, and the network takes {', '.join(names)}",
                where=str(path),
                hint=_HINT,
            )
        return {names[0]: load_input(inputs[0], path)}
    try:
        with np.load(io.BytesIO(read_bytes(path)), allow_pickle=False) as arrays:
            found = dict(arrays)
    except GantkError:
        raise
    except Exception as error:  # A damaged archive fails in many ways.
        raise GantkError(
            f"`{path}` is not an .npz file of arrays: {error}", where=str(path), hint=_HINT
        ) from error
    if sorted(found) != sorted(names):
        raise GantkError(
            f"`{path}` has {', '.join(found) or 'nothing'}, and the network takes {', '.join(names)}",
            where=str(path),
            hint=_HINT,
        )
    return found

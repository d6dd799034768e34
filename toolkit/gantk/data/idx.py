# SPDX-License-Identifier: Apache-2.0
"""Files of the MNIST type: a magic number, the size of each axis, and pixels or labels, most often gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from gantk.errors import GantkError
from gantk.files import named_errors

MAX_BYTES = 4 * 2**30

_MAGIC = bytes((0, 0, 8))  # Two zeros, and 8 for unsigned bytes; the number of axes follows.
_KINDS = {
    1: ("labels", "train-labels-idx1-ubyte.gz is such a file"),
    3: ("pictures", "give a folder of pictures, or a file such as train-images-idx3-ubyte.gz"),
}
_GZIP_MAGIC = b"\x1f\x8b"


def find(folder: Path) -> Path | None:
    """The idx file of training pictures in a folder, if there is one.

    Raises:
        GantkError: There are several.
    """
    found = sorted(path for path in folder.glob("*images*idx3-ubyte*") if path.is_file())
    found = [path for path in found if "train" in path.name] or found
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:4])
        raise GantkError(
            f"`{folder}` has {len(found)} idx files of pictures: {names}",
            where=str(folder),
            hint=f"--data {found[0]}",
        )
    return found[0] if found else None


def read(path: Path) -> NDArray[np.uint8]:
    """Read pictures.

    Args:
        path: An idx file of unsigned bytes with three axes, gzipped or not.

    Returns:
        uint8[N, H, W].

    Raises:
        GantkError: It is something else, is cut, or is larger than `MAX_BYTES`.
    """
    return _read(path, 3)


def read_labels(path: Path) -> NDArray[np.uint8]:
    """Read labels, uint8[N], from a file with one axis; otherwise as `read`."""
    return _read(path, 1)


def read_shape(path: Path) -> tuple[int, ...]:
    """The count, height and width of the pictures that a file declares; otherwise as `read`."""
    with _opened(path) as stream:
        return _shape(stream.read(16), 3, path)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    """A file's bytes, unzipped where they are zipped."""
    with named_errors(path, "read"), path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if zipped else raw
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise GantkError(f"`{path.name}` is cut or damaged: {error}", where=str(path)) from error


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    with _opened(path) as stream:
        shape = _shape(stream.read(4 + 4 * axes), axes, path)
        expected = math.prod(shape)
        data = stream.read(expected)
    if len(data) < expected:
        raise GantkError(
            f"`{path.name}` is cut: it has {len(data)} of the {expected} bytes of its {shape[0]} {_KINDS[axes][0]}",
            where=str(path),
        )
    return np.frombuffer(data, np.uint8).reshape(shape)


def _shape(header: bytes, axes: int, path: Path) -> tuple[int, ...]:
    kind, hint = _KINDS[axes]
    magic = _MAGIC + bytes((axes,))
    if len(header) < 4 + 4 * axes or not header.startswith(magic):
        raise GantkError(
            f"`{path.name}` is not an idx file of {kind}: it begins with {header[:4].hex(' ') or 'nothing'}; "
            f"{magic.hex(' ')} is wanted",
            where=str(path),
            hint=hint,
        )
    shape = tuple(int.from_bytes(header[at : at + 4], "big") for at in range(4, len(header), 4))
    if not 0 < math.prod(shape) <= MAX_BYTES:
        sizes = " of {2} x {1}".format(*shape) if axes == 3 else ""
        raise GantkError(
            f"`{path.name}` declares {shape[0]} {kind}{sizes}; between 1 and {MAX_BYTES} bytes in all are wanted",
            where=str(path),
        )
    return shape

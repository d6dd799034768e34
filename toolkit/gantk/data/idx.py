# SPDX-License-Identifier: Apache-2.0
"""Files of the MNIST type: a magic number, the sizes of three axes, and the pixels, most often gzipped."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gantk.errors import GantkError
from gantk.files import named_errors

MAX_BYTES = 4 * 2**30

_MAGIC = bytes((0, 0, 8, 3))  # Two zeros, 8 for unsigned bytes, 3 axes.
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
    with named_errors(path, "read"), path.open("rb") as raw:
        zipped = raw.read(2) == _GZIP_MAGIC
        raw.seek(0)
        stream = gzip.GzipFile(fileobj=raw) if zipped else raw
        try:
            header = stream.read(16)
            count, height, width = _sizes(header, path)
            expected = count * height * width
            data = stream.read(expected)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise GantkError(f"`{path.name}` is cut or damaged: {error}", where=str(path)) from error
    if len(data) < expected:
        raise GantkError(
            f"`{path.name}` is cut: it has {len(data)} of the {expected} bytes of its {count} pictures",
            where=str(path),
        )
    return np.frombuffer(data, np.uint8).reshape(count, height, width)


def _sizes(header: bytes, path: Path) -> tuple[int, int, int]:
    if len(header) < 16 or not header.startswith(_MAGIC):
        raise GantkError(
            f"`{path.name}` is not an idx file of pictures: it begins with {header[:4].hex(' ') or 'nothing'}; "
            f"{_MAGIC.hex(' ')} is wanted",
            where=str(path),
            hint="give a folder of pictures, or a file such as train-images-idx3-ubyte.gz",
        )
    count, height, width = (int.from_bytes(header[at : at + 4], "big") for at in (4, 8, 12))
    if not count or not height or not width or count * height * width > MAX_BYTES:
        raise GantkError(
            f"`{path.name}` declares {count} pictures of {width} x {height}; "
            f"between 1 and {MAX_BYTES} bytes in all are wanted",
            where=str(path),
        )
    return count, height, width

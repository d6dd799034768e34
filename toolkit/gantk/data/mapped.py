# SPDX-License-Identifier: Apache-2.0
"""Decoded data sets too large for the memory, in mapped files that the next run with the same pictures finds."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gantk.errors import GantkError
from gantk.files import PARTIAL, is_abandoned, named_errors, partial_name, read_bytes, write_text
from gantk.runtime.cache import DATA_SET, limit_bytes, make_room

Skipped = tuple[tuple[str, str], ...]
"""Files that could not be read, each with the reason."""

Mapped = tuple[NDArray[np.uint8], Skipped]


def load_mapped(
    cache: Path,
    key: str,
    shape: tuple[int, ...],
    fill: Callable[[NDArray[np.uint8]], tuple[int, list[tuple[str, str]]]],
) -> Mapped:
    """A data set from its mapped file, or made into one.

    Args:
        cache: The folder of such files; what others in it have not been used for longest goes where
            `gantk.runtime.cache.VARIABLE` leaves them no room.
        key: The name of the data set.
        shape: Of all pictures, readable or not.
        fill: Writes the pictures to the front of an array of `shape`; how many, and what could not be read.

    Raises:
        GantkError: The file cannot be written.
    """
    file = cache / f"{key}{DATA_SET}"
    return _find(file, shape) or _make(file, shape, fill)


def _find(file: Path, shape: tuple[int, ...]) -> Mapped | None:
    try:
        known = json.loads(read_bytes(file.with_suffix(".json")))
        with file.open("rb") as stream:
            # The mapping holds the stream's lock for as long as there is an array on it.
            fcntl.flock(stream, fcntl.LOCK_SH)
            array = np.memmap(stream, np.uint8, "r", shape=(known["count"], *shape[1:]))
        skipped = tuple((path, reason) for path, reason in known["skipped"])
    except (GantkError, OSError, ValueError, KeyError, TypeError):
        return None  # Without a whole index and file: decode again.
    with suppress(OSError):  # Somebody else's.
        os.utime(file)  # Used now.
    return array, skipped


def _make(
    file: Path,
    shape: tuple[int, ...],
    fill: Callable[[NDArray[np.uint8]], tuple[int, list[tuple[str, str]]]],
) -> Mapped:
    partial, size, limit = partial_name(file), int(np.prod(shape)), limit_bytes()
    with named_errors(file, "write"):
        file.parent.mkdir(parents=True, exist_ok=True)
        _sweep(file.parent)
        make_room(file.parent, size, limit)
        try:
            with partial.open("w+b") as stream:
                fcntl.flock(stream, fcntl.LOCK_EX)  # For `_sweep`.
                # Without the room set aside, a full disk would kill the process on a write to mapped memory.
                os.posix_fallocate(stream.fileno(), 0, size)
                whole = np.memmap(stream, np.uint8, "r+", shape=shape)
                count, skipped = fill(whole)
                whole.flush()
                fcntl.flock(stream, fcntl.LOCK_SH)  # Others may use it too.
                partial.replace(file)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    write_text(file.with_suffix(".json"), json.dumps({"count": count, "skipped": skipped}))
    return whole[:count], tuple(skipped)


def _sweep(cache: Path) -> None:
    """Remove what killed processes half wrote: each is as large as a data set."""
    for left in cache.glob(f".*{DATA_SET}.*{PARTIAL}"):
        with suppress(OSError):  # Gone meanwhile.
            if is_abandoned(left):
                left.unlink()

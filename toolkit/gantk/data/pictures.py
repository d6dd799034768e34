# SPDX-License-Identifier: Apache-2.0
"""A folder of pictures, or an idx file, decoded once into one uint8 array in memory or in a mapped file."""

from __future__ import annotations

import hashlib
import os
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gantk.data import idx
from gantk.data.decode import decode, decode_grey, has_colours
from gantk.data.mapped import load_mapped
from gantk.errors import GantkError
from gantk.files import cache_folder, named_errors
from gantk.runtime.cores import core_count
from gantk.runtime.decode import UnreadableError, find_pictures
from gantk.runtime.pictures import Pixels

MEMORY_BYTES = 2**30
"""A data set that is larger when decoded goes into a mapped file, which is kept for the next run."""

_HINT = "a folder of pictures, or an MNIST-type idx file, is wanted"

Progress = Callable[[int, int], None]
"""Called with the number of pictures done and the number in all."""


@dataclass(frozen=True)
class Source:
    """Where pictures come from.

    Args:
        path: A folder, or an idx file.
        count: How many pictures there are, those that cannot be read too.
        files: The picture files of the folder, sorted; empty for an idx file.
        size: Their height and width where all have one and the same, as in an idx file.
    """

    path: Path
    count: int
    files: tuple[Path, ...] = ()
    size: int | None = None

    @cached_property
    def coloured(self) -> Path | None:
        """The first picture that has colours, as files' headers say; `None` where all are grey."""
        return next(filter(has_colours, self.files), None)

    @property
    def channels(self) -> int:
        """1 where all pictures are grey, else 3."""
        return 1 if self.coloured is None else 3


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures.

    Args:
        array: uint8[N, channels, size, size].
        skipped: The files that could not be read, each with the reason.
    """

    array: NDArray[np.uint8]
    skipped: tuple[tuple[str, str], ...] = ()

    def __len__(self) -> int:
        return len(self.array)

    def sample(self, count: int) -> NDArray[np.uint8]:
        """Up to `count` pictures, spread evenly over all."""
        chosen = np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64)
        return self.array[chosen]

    def fingerprint(self) -> str:
        """A hash by which a resumed run knows that it has the pictures it began with."""
        digest = hashlib.sha256(repr(self.array.shape).encode())
        digest.update(self.sample(1024).tobytes())
        return digest.hexdigest()[:16]


def find_source(path: str | os.PathLike[str]) -> Source:
    """Look what is at `path`: a folder of pictures (nested folders too), or of an idx file, or such a file.

    Raises:
        GantkError: There is nothing, or nothing of that kind.
    """
    path = Path(path)
    with named_errors(path, "read"):
        found = path if path.is_file() else idx.find(path) if path.is_dir() else None
        if found is not None:
            count, height, width = idx.read_shape(found)
            return Source(found, count, size=height if height == width else None)
        if not path.is_dir():
            what = "is not a regular file" if path.exists() else "does not exist"
            raise GantkError(f"`{path}` {what}", where=str(path), hint=_HINT)
        files = find_pictures(path, hint=_HINT)
    return Source(path, len(files), tuple(files))


def load(
    source: Source,
    size: int,
    channels: int,
    *,
    rank: int = 0,
    world: int = 1,
    threads: int | None = None,
    progress: Progress | None = None,
    memory_bytes: int = MEMORY_BYTES,
    cache: Path | None = None,
) -> Pictures:
    """Decode the pictures of a source, or every `world`-th of them.

    Args:
        source: Where they are.
        size: The height and width to resize them to, in pixels.
        channels: 1 or 3.
        rank: Which of every `world` pictures to take, from 0.
        world: The number of processes that share the source.
        threads: How many decode; by default as many as there are cores.
        progress: Told after every few pictures.
        memory_bytes: A larger array goes into a mapped file in `cache`.
        cache: A folder for such files; ``~/.cache/gantk`` by default.

    Raises:
        GantkError: No picture can be read, or the mapped file cannot be written.
    """
    items: Any = source.files[rank::world] if source.files else idx.read(source.path)[rank::world]
    shape = (len(items), channels, size, size)
    decoder = _file_decoder(size, channels) if source.files else _idx_decoder(size, channels)
    threads = threads or core_count()
    if np.prod(shape) <= memory_bytes:
        array = np.empty(shape, np.uint8)
        count, skipped = _fill(array, items, decoder, threads, progress)
        pictures = Pictures(array[:count], tuple(skipped))
    else:
        pictures = Pictures(
            *load_mapped(
                cache or cache_folder(),
                _key(source, items, shape),
                shape,
                lambda whole: _fill(whole, items, decoder, threads, progress),
            )
        )
    if not len(pictures):
        first = pictures.skipped[0]
        raise GantkError(
            f"none of the {len(items)} picture files in `{source.path}` can be read; "
            f"`{first[0]}`: {first[1]}",
            where=str(source.path),
        )
    return pictures


Decoder = Callable[[Any], "Pixels | tuple[str, str]"]


def _file_decoder(size: int, channels: int) -> Decoder:
    def run(path: Path) -> Pixels | tuple[str, str]:
        try:
            return decode(path, size, channels)
        except UnreadableError as error:
            return str(path), str(error).replace(str(path), path.name)

    return run


def _idx_decoder(size: int, channels: int) -> Decoder:
    return lambda pixels: decode_grey(pixels, size, channels)


def _fill(
    array: NDArray[np.uint8], items: Any, decoder: Decoder, threads: int, progress: Progress | None
) -> tuple[int, list[tuple[str, str]]]:
    """Decode `items` in their order into the front of `array`."""
    count, skipped = 0, []
    for done, result in enumerate(_map(decoder, items, threads), 1):
        if isinstance(result, tuple):
            skipped.append(result)
        else:
            array[count] = result
            count += 1
        if progress is not None and (done % 64 == 0 or done == len(items)):
            progress(done, len(items))
    return count, skipped


def _map(decoder: Decoder, items: Any, threads: int) -> Iterator[Pixels | tuple[str, str]]:
    """Apply `decoder` in threads, in order, a block at a time so that results do not pile up."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    try:
        # Our own limit, in words, replaces the warning; it is set here as filters are not a thread's own.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for start in range(0, len(items), 512):
                yield from pool.map(decoder, items[start : start + 512])
    finally:
        pool.shutdown(cancel_futures=True)


def _key(source: Source, items: Any, shape: tuple[int, ...]) -> str:
    """A name that changes with the files, their sizes and dates, and the form they are decoded to."""
    paths = items if source.files else [source.path]
    digest = hashlib.sha256(repr((shape, len(items))).encode())
    for path in paths:
        digest.update(os.fsencode(path.absolute()) + b"\0")
        with suppress(OSError):  # A link that leads nowhere; `decode` will name it.
            stat = path.stat()
            digest.update(f"{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    if not source.files:
        digest.update(items[0].tobytes())  # Tells the ranks' shares of one file apart.
    return digest.hexdigest()[:32]

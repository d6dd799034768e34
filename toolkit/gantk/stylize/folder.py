# SPDX-License-Identifier: Apache-2.0
"""A folder of pictures, stylised in order; a second call goes on where the first one stopped."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from gantk.errors import GantkError, UsageError
from gantk.files import lacks_room, named_errors, resolved
from gantk.runtime.decode import find_pictures
from gantk.stylize.painter import Painter
from gantk.stylize.pictures import Picture, read, write
from gantk.stylize.target_folder import is_done, note_settings, sweep, taken, target_names

Progress = Callable[[int, int, str], None]
"""Called with the number of pictures done and in all, and the name of the last one."""

T = TypeVar("T")
R = TypeVar("R")


@dataclass
class FolderResult:
    """What became of a folder.

    Args:
        written: The outputs made by this call, in order.
        kept: The outputs that were there already.
        skipped: The pictures that could not be read or written, each with the reason.
    """

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)


def stylize_folder(
    painter: Painter,
    source: Path,
    target: Path,
    *,
    suffix: str | None = None,
    force: bool = False,
    jobs: int = 2,
    batch: int = 1,
    progress: Progress | None = None,
) -> FolderResult:
    """Stylise every picture of a folder and the folders in it.

    While the network runs, `jobs` threads decode what comes next and as many encode what is done. Each output
    appears whole or not at all; those that are whole, newer than their picture and made with the same settings
    are kept. A picture that cannot be read is named and passed by.

    Args:
        painter: The network and how to use it.
        source: The folder.
        target: The folder to write to; names and nested folders are those of the source.
        suffix: Of all outputs, e.g. ``.png``; by default each picture's own, ``.png`` where gantk writes no such.
        force: Make all of them again.
        jobs: Threads that decode, and threads that encode.
        batch: The number of consecutive pictures of one size to run at a time.
        progress: Told after each picture.

    Raises:
        GantkError: There is no such folder or no picture in it; `target` holds pictures made with other settings,
            or another process writes to it; its file system is full; or none could be stylised.
        UsageError: `target` is the source itself.
    """
    files = find(source, target)
    return stylize_files(
        painter,
        files,
        target_names([file.relative_to(source) for file in files], target, suffix),
        target,
        force=force,
        jobs=jobs,
        batch=batch,
        progress=progress,
    )


def find(source: Path, target: Path) -> list[Path]:
    """The pictures of a folder and the folders in it, sorted, without those in `target`; errors as above."""
    with named_errors(source, "read"):
        if not source.is_dir():
            raise GantkError(f"`{source}` is not a folder", where=str(source))
        if resolved(target) == resolved(source):
            raise UsageError(
                "the output folder is the input folder", where=str(target), hint="-o another folder"
            )
        return find_pictures(source, without=target)


def stylize_files(
    painter: Painter,
    files: Sequence[Path],
    outputs: Sequence[Path],
    target: Path,
    *,
    force: bool = False,
    jobs: int = 2,
    batch: int = 1,
    progress: Progress | None = None,
) -> FolderResult:
    """Stylise pictures as `stylize_folder` does: `files` to `outputs`, which lie in the folder `target`."""
    targets = dict(zip(files, outputs, strict=True))
    result = FolderResult()
    with taken(target):
        same = note_settings(target, outputs, painter.settings, force=force)
        sweep(outputs)
        pending = []
        for file, output in targets.items():
            if same and not force and is_done(file, output):
                result.kept.append(output)
            else:
                pending.append(file)
        _Run(painter, targets, result, progress, len(files)).all(pending, jobs, batch)
    if result.skipped and not result.written and not result.kept:
        path, reason = result.skipped[0]
        raise GantkError(f"none of {len(files)} pictures could be stylised: {reason}", where=str(path))
    return result


class _Run:
    """The pictures of a folder on their way."""

    def __init__(
        self,
        painter: Painter,
        targets: dict[Path, Path],
        result: FolderResult,
        progress: Progress | None,
        total: int,
    ) -> None:
        self._painter, self._targets, self._result = painter, targets, result
        self._progress, self._total = progress, total

    def all(self, files: Sequence[Path], jobs: int, batch: int) -> None:
        readers = ThreadPoolExecutor(jobs, thread_name_prefix="decode")
        writers = ThreadPoolExecutor(jobs, thread_name_prefix="encode")
        writing: deque[tuple[Path, Future[None]]] = deque()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Our own limit, in words, replaces Pillow's.
                ahead = _ahead(readers, self._read, files, 2 * jobs)
                for group in _groups(self._readable(ahead), batch):
                    painted = self._painter.paint_all([picture for _, picture in group])
                    for (file, _), picture in zip(group, painted, strict=True):
                        writing.append((file, writers.submit(self._write, file, picture)))
                    while len(writing) > 2 * jobs:
                        self._finish(*writing.popleft())
                while writing:
                    self._finish(*writing.popleft())
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown(cancel_futures=True)

    def _read(self, file: Path) -> Picture | GantkError:
        try:
            return read(file, self._painter.size)
        except GantkError as error:
            return error

    def _readable(self, pairs: Iterable[tuple[Path, Picture | GantkError]]) -> Iterator[tuple[Path, Picture]]:
        for file, picture in pairs:
            if isinstance(picture, Picture):
                yield file, picture
            else:
                self._skip(file, picture)

    def _write(self, file: Path, picture: Picture) -> None:
        write(self._targets[file], picture, self._painter.quality)

    def _finish(self, file: Path, future: Future[None]) -> None:
        try:
            future.result()
        except GantkError as error:
            if lacks_room(error):
                raise  # So would every one that follows.
            self._skip(file, error)
        else:
            self._result.written.append(self._targets[file])
            self._tell(file)

    def _skip(self, file: Path, error: GantkError) -> None:
        self._result.skipped.append((file, error.what))
        self._tell(file)

    def _tell(self, file: Path) -> None:
        result = self._result
        if self._progress is not None:
            done = len(result.written) + len(result.kept) + len(result.skipped)
            self._progress(done, self._total, file.name)


def _ahead(
    pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], depth: int
) -> Iterator[tuple[T, R]]:
    """Apply `work` in threads, in order, at most `depth` items ahead of who asks."""
    running: deque[tuple[T, Future[R]]] = deque()
    for item in items:
        running.append((item, pool.submit(work, item)))
        if len(running) > depth:
            first, future = running.popleft()
            yield first, future.result()
    for first, future in running:
        yield first, future.result()


def _groups(pairs: Iterable[tuple[Path, Picture]], batch: int) -> Iterator[list[tuple[Path, Picture]]]:
    """Consecutive pictures of one size, up to `batch` of them."""
    group: list[tuple[Path, Picture]] = []
    for pair in pairs:
        if group and (len(group) == batch or pair[1].pixels.shape != group[0][1].pixels.shape):
            yield group
            group = []
        group.append(pair)
    if group:
        yield group

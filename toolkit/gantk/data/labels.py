# SPDX-License-Identifier: Apache-2.0
"""The classes that pictures come in: the subfolders of a folder, or the labels beside an idx file."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gantk.data import idx
from gantk.data.pictures import Source
from gantk.errors import GantkError
from gantk.files import named_errors


def find_classes(source: Source) -> tuple[str, ...]:
    """The names of the classes, sorted: of subfolders, or the numbers in the file of labels.

    Raises:
        GantkError: There are fewer than two, or pictures in no subfolder or in one whose name cannot be printed, or no
            whole file of labels.
    """
    names = {*_label_names(source)}
    if len(names) < 2:
        raise GantkError(
            f"`{source.path}` has pictures of {len(names)} class; at least two are wanted to tell apart",
            where=str(source.path),
            hint="a subfolder for each class, or leave --conditional out",
        )
    return tuple(sorted(names, key=None if source.files else int))


def read_labels(
    source: Source, classes: Sequence[str], *, rank: int = 0, world: int = 1, skipped: Collection[str] = ()
) -> NDArray[np.int64]:
    """The place in `classes` of each picture that `gantk.data.load` yields.

    Args:
        source: Where the pictures are.
        classes: The names, from `find_classes`.
        rank: Which of every `world` pictures, from 0.
        world: The number of processes that share the source.
        skipped: The paths of pictures that could not be read.

    Returns:
        int64[N].

    Raises:
        GantkError: A picture is of another class; and as `find_classes`.
    """
    places = {name: place for place, name in enumerate(classes)}
    names = _label_names(source)[rank::world]
    unknown = sorted({*names} - {*places})
    if unknown:
        raise GantkError(
            f"`{source.path}` has pictures of the class {unknown[0]!r}; the run knows {', '.join(classes)}",
            where=str(source.path),
        )
    files = source.files[rank::world]
    kept = [name for at, name in enumerate(names) if not files or str(files[at]) not in skipped]
    return np.array([places[name] for name in kept], np.int64)


def _label_names(source: Source) -> list[str]:
    """The class of every picture of a source, by name."""
    if not source.files:
        return [str(label) for label in _labels_of_idx(source.path)]
    names = []
    for file in source.files:
        parts = file.relative_to(source.path).parts
        if len(parts) < 2:
            raise GantkError(
                f"`{file.name}` lies in no subfolder of `{source.path}`; its class is not known",
                where=str(file),
                hint="a subfolder for each class, or leave --conditional out",
            )
        if not parts[0].isprintable():
            raise GantkError(
                f"{parts[0]!r} is no name for a class: it cannot be printed",
                where=str(source.path / parts[0]),
                hint="rename the folder",
            )
        names.append(parts[0])
    return names


def _labels_of_idx(pictures: Path) -> NDArray[np.uint8]:
    path = _beside(pictures)
    labels = idx.read_labels(path)
    count = idx.read_shape(pictures)[0]
    if len(labels) != count:
        raise GantkError(
            f"`{path.name}` has {len(labels)} labels; `{pictures.name}` has {count} pictures", where=str(path)
        )
    return labels


def _beside(pictures: Path) -> Path:
    """The file of labels that belongs to an idx file of pictures, zipped or not."""
    name = pictures.name.replace("images", "labels").replace("idx3", "idx1")
    plain = name.removesuffix(".gz")
    with named_errors(pictures, "read"):
        for path in (pictures.with_name(plain), pictures.with_name(f"{plain}.gz")):
            if path != pictures and path.is_file():
                return path
    raise GantkError(
        f"`{pictures}` has no file of labels beside it: `{name}` is wanted",
        where=str(pictures.parent),
        hint="put it there, or leave --conditional out",
    )

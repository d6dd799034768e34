# SPDX-License-Identifier: Apache-2.0
"""The classes of pictures: what is found, and that each label stays with its picture."""

from __future__ import annotations

import gzip
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk.data import find_classes, find_source, load, read_labels
from gantk.errors import GantkError


def grey(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), value).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes; a picture's brightness is 100 times its class, and its number."""
    root = tmp_path / "pictures"
    for place, name in enumerate(("cats", "dogs", "owls")):
        for number in range(4):
            nested = root / name / ("deep" if number == 3 else ".")
            grey(nested / f"{number}.png", 100 * place + number)
    return root


def idx_files(folder: Path, labels: list[int], pictures: int, suffix: str = ".gz") -> Path:
    write = gzip.compress if suffix else bytes
    for name, magic, sizes, data in (
        ("images-idx3", 0x803, (pictures, 8, 8), bytes(pictures * 64)),
        ("labels-idx1", 0x801, (len(labels),), bytes(labels)),
    ):
        header = struct.pack(f">{1 + len(sizes)}I", magic, *sizes)
        (folder / f"train-{name}-ubyte{suffix}").write_bytes(write(header + data))
    return folder / f"train-images-idx3-ubyte{suffix}"


@pytest.mark.parametrize("world", [1, 2, 5])
def test_every_picture_has_its_own_label(folder: Path, world: int) -> None:
    (folder / "dogs" / "1.png").write_bytes(b"no picture")
    source = find_source(folder)
    assert find_classes(source) == ("cats", "dogs", "owls")
    found = []
    for rank in range(world):
        pictures = load(source, 8, 1, rank=rank, world=world)
        skipped = [path for path, _ in pictures.skipped]
        labels = read_labels(source, find_classes(source), rank=rank, world=world, skipped=skipped)
        assert labels.dtype == np.int64
        np.testing.assert_array_equal(labels, np.rint(pictures.array[:, 0, 0, 0] / 100))
        found += labels.tolist()
    assert sorted(found) == [0] * 4 + [1] * 3 + [2] * 4


def test_labels_follow_the_order_of_the_names_that_are_given(folder: Path) -> None:
    labels = read_labels(find_source(folder), ("owls", "cats", "dogs"))
    assert labels.tolist() == [1] * 4 + [2] * 4 + [0] * 4


@pytest.mark.parametrize("suffix", [".gz", ""])
def test_labels_beside_an_idx_file(tmp_path: Path, suffix: str) -> None:
    source = find_source(idx_files(tmp_path, [10, 2, 2, 7], 4, suffix))
    assert find_classes(source) == ("2", "7", "10")
    assert read_labels(source, find_classes(source)).tolist() == [2, 0, 0, 1]
    assert read_labels(source, find_classes(source), rank=1, world=2).tolist() == [0, 1]


def test_classes_have_names_that_can_be_typed(folder: Path) -> None:
    (folder / "owls").rename(folder / "not\udcffutf-8")
    with pytest.raises(GantkError, match=r"'not\\udcffutf-8' is no name for a class"):
        find_classes(find_source(folder))


def test_pictures_without_classes_are_refused(folder: Path) -> None:
    source = find_source(folder)
    with pytest.raises(GantkError, match="of the class 'owls'; the run knows cats, dogs"):
        read_labels(source, ("cats", "dogs"))
    grey(folder / "stray.png", 5)
    with pytest.raises(GantkError, match=r"`stray.png` lies in no subfolder"):
        find_classes(find_source(folder))
    (folder / "stray.png").unlink()
    for name in ("dogs", "owls"):
        shutil.rmtree(folder / name)
    with pytest.raises(GantkError, match="of 1 class; at least two"):
        find_classes(find_source(folder))


def test_labels_that_are_missing_or_wrong_are_refused(tmp_path: Path) -> None:
    pictures = idx_files(tmp_path, [0, 1, 2], 4)
    with pytest.raises(GantkError, match="has 3 labels; `train-images-idx3-ubyte.gz` has 4 pictures"):
        find_classes(find_source(pictures))
    labels = tmp_path / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(struct.pack(">II", 0x801, 4) + bytes(3)))
    with pytest.raises(GantkError, match="it has 3 of the 4 bytes of its 4 labels"):
        find_classes(find_source(pictures))
    labels.write_bytes(pictures.read_bytes())
    with pytest.raises(GantkError, match="not an idx file of labels: it begins with 00 00 08 03"):
        find_classes(find_source(pictures))
    labels.unlink()
    with pytest.raises(GantkError, match="has no file of labels beside it: `train-labels-idx1-ubyte.gz`"):
        find_classes(find_source(pictures))

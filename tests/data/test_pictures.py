# SPDX-License-Identifier: Apache-2.0
"""Folders and idx files become one array, in order, with what could not be read named."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk.data import find_source, load
from gantk.errors import GantkError


def grey(path: Path, value: int, size: int = 10) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (size, size), (value, value, value)).save(path)


def idx_bytes(pictures: np.ndarray) -> bytes:
    return struct.pack(">IIII", 0x803, *pictures.shape) + pictures.tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "pictures"
    for name, value in (("b.PNG", 2), ("a.jpg", 1), ("deep/er/c.webp", 3), ("d.bmp", 4)):
        grey(root / name, value * 50)
    (root / "notes.txt").write_text("not a picture")
    (root / "._a.jpg").write_bytes(b"resource fork")
    (root / "deep" / "up").symlink_to(root)  # A cycle.
    return root


def test_nested_folders_in_order(folder: Path) -> None:
    source = find_source(folder)
    assert [path.name for path in source.files] == ["a.jpg", "b.PNG", "d.bmp", "c.webp"]
    assert source.count == 4
    told: list[tuple[int, int]] = []
    pictures = load(source, 8, 3, threads=2, progress=lambda done, total: told.append((done, total)))
    assert [round(picture.mean() / 50) for picture in pictures.array] == [1, 2, 4, 3]
    assert told[-1] == (4, 4)
    assert pictures.skipped == ()


def test_runs_among_the_pictures_are_passed_by(folder: Path) -> None:
    run = folder / "runs" / "pictures"
    grey(run / "samples" / "epoch-0001.png", 200)
    grey(run / "losses.png", 200)
    (run / "checkpoints").mkdir()
    assert find_source(folder).count == 6  # Not a run yet: somebody's folders.
    (run / "run.json").write_text("{}")
    assert [path.name for path in find_source(folder).files] == ["a.jpg", "b.PNG", "d.bmp", "c.webp"]
    assert find_source(run).count == 2  # Who asks for them gets them.


def test_broken_files_are_skipped_and_named(folder: Path) -> None:
    (folder / "c.png").write_bytes((folder / "b.PNG").read_bytes()[:-30])
    (folder / "e.jpeg").write_text("hello")
    pictures = load(find_source(folder), 8, 1, threads=2)
    assert [round(picture.mean() / 50) for picture in pictures.array] == [1, 2, 4, 3]
    assert [Path(path).name for path, _ in pictures.skipped] == ["c.png", "e.jpeg"]
    assert "known format" in pictures.skipped[1][1]


def test_two_processes_share_without_overlap(folder: Path) -> None:
    source = find_source(folder)
    shares = [load(source, 8, 1, rank=rank, world=2).array for rank in (0, 1)]
    assert [[round(picture.mean() / 50) for picture in share] for share in shares] == [[1, 4], [2, 3]]


def test_one_coloured_picture_makes_three_channels(tmp_path: Path) -> None:
    for index in range(100):
        Image.new("L", (4, 4)).save(tmp_path / f"{index:03d}.png")
    (tmp_path / "000.png").write_text("broken")  # Says nothing of colours.
    source = find_source(tmp_path)
    assert (source.channels, source.coloured) == (1, None)
    coloured = tmp_path / "097.png"
    Image.new("RGB", (4, 4)).save(coloured)
    source = find_source(tmp_path)
    assert (source.channels, source.coloured) == (3, coloured)


def test_past_the_memory_budget_a_mapped_file_is_used_and_found_again(folder: Path, tmp_path: Path) -> None:
    (folder / "broken.png").write_text("hello")
    source, cache = find_source(folder), tmp_path / "cache"
    in_memory = load(source, 8, 3)
    mapped = load(source, 8, 3, memory_bytes=100, cache=cache)
    np.testing.assert_array_equal(mapped.array, in_memory.array)
    assert mapped.fingerprint() == in_memory.fingerprint()

    told: list[int] = []
    again = load(source, 8, 3, memory_bytes=100, cache=cache, progress=lambda done, _: told.append(done))
    assert told == []  # Nothing was decoded.
    np.testing.assert_array_equal(again.array, in_memory.array)
    assert again.skipped == mapped.skipped
    assert len(list(cache.iterdir())) == 2

    grey(folder / "a.jpg", 250)  # Another picture under the same name.
    changed = load(find_source(folder), 8, 3, memory_bytes=100, cache=cache)
    assert changed.array[0].mean() > 240


def test_a_link_that_leads_nowhere_is_skipped_in_memory_and_out_of_it(folder: Path, tmp_path: Path) -> None:
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    source = find_source(folder)
    for pictures in (load(source, 8, 3), load(source, 8, 3, memory_bytes=100, cache=tmp_path / "cache")):
        assert pictures.skipped == ((str(folder / "gone.png"), "No such file or directory"),)


def test_a_pipe_among_pictures_is_passed_by_with_a_word(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(folder / "x.png")
    pictures = load(find_source(folder), 8, 3)
    assert len(pictures) == 4
    assert pictures.skipped == ((str(folder / "x.png"), "`x.png` is not a regular file"),)
    with pytest.raises(GantkError, match=r"x.png` is not a regular file"):
        find_source(folder / "x.png")


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files(tmp_path: Path, zipped: bool) -> None:
    pictures = np.arange(3 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(3, 28, 28)
    data = idx_bytes(pictures)
    path = tmp_path / f"train-images-idx3-ubyte{'.gz' * zipped}"
    path.write_bytes(gzip.compress(data) if zipped else data)
    for given in (path, tmp_path):
        source = find_source(given)
        assert (source.path, source.count, source.channels, source.size) == (path, 3, 1, 28)
        np.testing.assert_array_equal(load(source, 28, 1).array[:, 0], pictures)


def test_idx_files_that_are_wrong(tmp_path: Path) -> None:
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = idx_bytes(np.zeros((4, 28, 28), np.uint8))
    for data, words in (
        (gzip.compress(whole)[:-12], "cut"),
        (gzip.compress(whole[:-1]), "has 3135 of the 3136 bytes"),
        (gzip.compress(b"\0\0\x08\x01" + whole[4:]), "begins with 00 00 08 01; 00 00 08 03 is wanted"),
        (gzip.compress(struct.pack(">IIII", 0x803, 2**31, 2**31, 28)), "declares 2147483648 pictures"),
        (gzip.compress(struct.pack(">IIII", 0x803, 0, 28, 28)), "declares 0 pictures"),
        (b"", "begins with nothing"),
    ):
        path.write_bytes(data)
        with pytest.raises(GantkError, match=words):
            load(find_source(path), 28, 1)


def test_a_folder_that_may_not_be_looked_into_is_not_empty(unprivileged: Path) -> None:
    closed = unprivileged / "closed"
    closed.mkdir()
    grey(closed / "a.png", 1)
    closed.chmod(0)
    try:
        with pytest.raises(GantkError, match="cannot read `.*closed`: Permission denied"):
            find_source(closed)
    finally:
        closed.chmod(0o700)


def test_what_holds_no_pictures(tmp_path: Path) -> None:
    with pytest.raises(GantkError, match="does not exist"):
        find_source(tmp_path / "no")
    with pytest.raises(GantkError, match="is empty"):
        find_source(tmp_path)
    (tmp_path / "a.txt").write_text("a")
    with pytest.raises(GantkError, match="has 1 file and no picture among them"):
        find_source(tmp_path)
    (tmp_path / "a.png").write_text("a")
    with pytest.raises(GantkError, match="none of the 1 picture files"):
        load(find_source(tmp_path), 8, 1)
    for name in ("x-images-idx3-ubyte", "y-images-idx3-ubyte"):
        (tmp_path / name).write_text("a")
    with pytest.raises(GantkError, match="2 idx files of pictures"):
        find_source(tmp_path)

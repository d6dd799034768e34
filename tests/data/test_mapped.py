# SPDX-License-Identifier: Apache-2.0
"""Mapped data sets: those used longest ago make room, those in use and what was downloaded stay."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gantk.data import Pictures, find_source, load
from gantk.errors import UsageError
from gantk.files import is_locked
from gantk.runtime import cache as module

SIZE = 256  # So that sixteen grey pictures are 1 MiB.
MIB_4 = str(1 / 256)


def decode(folder: Path, shade: int, cache: Path, told: Any = None) -> Pictures:
    """Sixteen pictures of one shade, by way of a mapped file."""
    place = folder / str(shade)
    if not place.is_dir():
        place.mkdir(parents=True)
        for index in range(16):
            Image.new("L", (8, 8), shade).save(place / f"{index}.png")
    return load(find_source(place), SIZE, 1, memory_bytes=100, cache=cache, progress=told)


def age(cache: Path, at: float) -> None:
    """Say of every data set that was used by now that this was long ago."""
    for path in cache.glob("*.u8"):
        if path.stat().st_mtime > 1e6:
            os.utime(path, (at, at))


def test_what_was_used_longest_ago_makes_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(module.VARIABLE, MIB_4)
    cache = tmp_path / "cache"
    cache.mkdir()
    kept = [cache / name for name in ("vgg19.pth", "verdict.json", "unknown")]
    for path in kept:
        path.write_bytes(bytes(2**20))
        os.utime(path, (0, 0))
    for at in range(4):
        decode(tmp_path, at, cache)
        age(cache, 1000.0 + at)
    decode(tmp_path, 0, cache)  # Used again: 1 is the oldest now.
    decode(tmp_path, 4, cache)
    assert len(list(cache.glob("*.u8"))) == len(list(cache.glob("?" * 32 + ".json"))) == 4
    assert all(path.exists() for path in kept)

    told: list[int] = []
    for shade in (0, 2, 3, 4):
        pictures = decode(tmp_path, shade, cache, told=lambda done, _: told.append(done))
        assert (pictures.array == shade).all()
    assert told == []  # They were there.
    decode(tmp_path, 1, cache, told=lambda done, _: told.append(done))
    assert told


def test_data_sets_in_use_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    made = decode(tmp_path, 1, cache)
    (first,) = cache.glob("*.u8")
    monkeypatch.setenv(module.VARIABLE, "0")
    decode(tmp_path, 2, cache)
    assert first.exists()  # Its maker uses it,
    found = decode(tmp_path, 1, cache)
    assert isinstance(found.array, np.memmap)
    del made
    assert is_locked(first)
    decode(tmp_path, 3, cache)
    assert first.exists()  # or who found it there.
    assert (found.array == 1).all()
    del found
    assert not is_locked(first)
    decode(tmp_path, 4, cache)
    assert not first.exists()
    assert len(list(cache.iterdir())) == 2  # The newest and its index, however large.


def test_files_may_be_called_anything(tmp_path: Path) -> None:
    place, cache = tmp_path / "pictures", tmp_path / "cache"
    place.mkdir()
    for name in ("a.png", "not\udcffutf-8.png"):
        Image.new("L", (8, 8), 7).save(os.fsencode(place / name), format="PNG")
    (place / "two\nlines\udcff.png").write_text("no picture")
    made, found = (load(find_source(place), 8, 1, memory_bytes=0, cache=cache) for _ in range(2))
    assert (len(made), len(found)) == (2, 2)
    assert [path for path, _ in found.skipped] == [str(place / "two\nlines\udcff.png")]


@pytest.mark.parametrize("limit", ["-1", "many", "nan", "inf"])
def test_a_limit_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    monkeypatch.setenv(module.VARIABLE, limit)
    with pytest.raises(UsageError, match=f"GANTK_DATA_CACHE_GIB is '{limit}'; a number of GiB from 0 on"):
        decode(tmp_path, 1, tmp_path / "cache")


def test_mapped_files_that_killed_processes_left_are_removed(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    left, at_work = (cache / f".{letter * 32}.u8.0123abcd.partial" for letter in "ab")
    for path in (left, at_work):
        path.touch()
        os.utime(path, (0, 0))
    with at_work.open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        decode(tmp_path, 1, cache)
    assert not left.exists()
    assert at_work.exists()

# SPDX-License-Identifier: Apache-2.0
"""Folders: in order, whole or absent, resumable, broken files named."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from gantk.errors import GantkError, UsageError
from gantk.files import named_errors
from gantk.stylize import folder as module
from gantk.stylize.folder import stylize_folder
from gantk.stylize.network import Look, StyleNetwork
from gantk.stylize.painter import Painter
from gantk.stylize.pictures import read
from gantk.stylize.target_folder import SETTINGS, target_names
from style_pictures import scene


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five pictures, nested, of two sizes, and two files that are none."""
    root = tmp_path / "in"
    for index, name in enumerate(("b.png", "a.jpg", "deep/er/c.webp", "deep/d.bmp", "e.png")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(scene(20 + 4 * (index // 2), 30, index)).save(root / name)
    (root / "deep" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (root / "notes.txt").write_text("not a picture")
    return root


def test_every_picture_is_painted_in_order_and_the_broken_one_named(painter: Painter, folder: Path) -> None:
    told: list[tuple[int, int, str]] = []
    result = stylize_folder(painter, folder, folder.parent / "out", progress=lambda *each: told.append(each))
    names = [path.relative_to(folder.parent / "out").as_posix() for path in result.written]
    assert names == ["a.jpg", "b.png", "deep/d.png", "deep/er/c.webp", "e.png"]
    assert [path.name for path, _ in result.skipped] == ["broken.png"]
    assert "cannot be read as a picture" in result.skipped[0][1]
    assert sorted(done for done, _, _ in told) == [1, 2, 3, 4, 5, 6]
    assert {total for _, total, _ in told} == {6}
    painted = painter.paint(read(folder / "b.png")).pixels
    assert (read(folder.parent / "out" / "b.png").pixels == painted).all()


@pytest.mark.parametrize("batch", [2, 7])
def test_batches_make_the_same_pictures(painter: Painter, folder: Path, tmp_path: Path, batch: int) -> None:
    one = stylize_folder(painter, folder, tmp_path / "one", suffix=".png")
    many = stylize_folder(painter, folder, tmp_path / "many", suffix=".png", batch=batch, jobs=1)
    assert len(one.written) == len(many.written) == 5
    for a, b in zip(one.written, many.written, strict=True):
        assert np.abs(read(a).pixels.astype(int) - read(b).pixels).max() <= 1


def test_what_is_whole_and_newer_is_kept(painter: Painter, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    stylize_folder(painter, folder, out)
    (out / "a.jpg").unlink()
    (out / "b.png").write_bytes((out / "b.png").read_bytes()[:-30])
    later = time.time() + 100
    os.utime(folder / "e.png", (later, later))
    result = stylize_folder(painter, folder, out)
    assert [path.name for path in result.written] == ["a.jpg", "b.png", "e.png"]
    assert [path.name for path in result.kept] == ["d.png", "c.webp"]
    assert len(stylize_folder(painter, folder, out, force=True).written) == 5


def test_other_settings_do_not_pass_for_done(
    network: StyleNetwork, painter: Painter, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    stylize_folder(painter, folder, out)
    before = (out / "b.png").read_bytes()
    colored = Painter(network, Look(), colors=True)
    with pytest.raises(GantkError, match="other settings: colors") as caught:
        stylize_folder(colored, folder, out)
    assert "--force" in str(caught.value)
    assert (out / "b.png").read_bytes() == before
    assert len(stylize_folder(colored, folder, out, force=True).written) == 5
    assert (out / "b.png").read_bytes() != before
    assert json.loads((out / SETTINGS).read_text())["colors"] is True
    (out / SETTINGS).write_text("damaged")
    with pytest.raises(GantkError, match="other settings"):
        stylize_folder(colored, folder, out)


def test_strangers_pictures_are_not_replaced(painter: Painter, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "e.png").write_bytes(b"mine")
    with pytest.raises(GantkError, match=r"e\.png` exists"):
        stylize_folder(painter, folder, tmp_path / "out")
    assert (tmp_path / "out" / "e.png").read_bytes() == b"mine"
    assert not (tmp_path / "out" / "a.jpg").exists()


def test_a_full_disk_ends_the_run_and_the_next_one_goes_on(
    painter: Painter, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every later picture would be painted for nothing; only what cannot be read is passed by."""
    painted: list[int] = []
    paint_all = painter.paint_all
    monkeypatch.setattr(painter, "paint_all", lambda some: painted.append(len(some)) or paint_all(some))
    write = module.write

    def fill(path: Path, *what: Any) -> None:
        if path.name != "a.jpg":
            with named_errors(path, "write"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, *what)

    for index in range(20):
        Image.fromarray(scene(20, 30, index)).save(folder / f"f{index}.png")
    monkeypatch.setattr(module, "write", fill)
    with pytest.raises(GantkError, match="No space left on device") as caught:
        stylize_folder(painter, folder, tmp_path / "out", jobs=1)
    assert "run the command again" in str(caught.value)
    assert len(painted) < 10
    monkeypatch.setattr(module, "write", write)
    result = stylize_folder(painter, folder, tmp_path / "out")
    assert ([path.name for path in result.kept], len(result.written)) == (["a.jpg"], 24)


def test_an_output_folder_inside_the_input_is_not_painted_again(painter: Painter, folder: Path) -> None:
    stylize_folder(painter, folder, folder / "out")
    again = stylize_folder(painter, folder, folder / "out")
    assert (len(again.written), len(again.kept)) == (0, 5)
    with pytest.raises(UsageError, match="is the input folder"):
        stylize_folder(painter, folder, folder / "deep" / "..")


@given(
    st.lists(
        st.sampled_from(["a.png", "a.jpg", "A.PNG", "b.bmp", "b.gif", "c/a.png", "b.png"]),
        unique=True,
        min_size=1,
    )
)
def test_no_two_pictures_go_to_one_place(names: list[str]) -> None:
    for suffix in (None, ".jpg", ".png"):
        targets = target_names([Path(name) for name in names], Path("out"), suffix)
        assert len({str(target).casefold() for target in targets}) >= len({name.casefold() for name in names})
        assert len(set(targets)) == len(targets)


def test_nothing_to_do_is_said(painter: Painter, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(GantkError, match="is empty; png, jpg, jpeg, "):
        stylize_folder(painter, tmp_path / "in", tmp_path / "out")
    with pytest.raises(GantkError, match="not a folder"):
        stylize_folder(painter, tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "in" / "a.png").write_bytes(b"junk")
    with pytest.raises(GantkError, match=r"none of 1 pictures.*a\.png"):
        stylize_folder(painter, tmp_path / "in", tmp_path / "out")


def test_a_failing_network_stops_it(painter: Painter, folder: Path, tmp_path: Path) -> None:
    painter.network.close()
    with pytest.raises(GantkError, match="closed"):
        stylize_folder(painter, folder, tmp_path / "out")


def test_two_do_not_write_one_folder(painter: Painter, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    refused: list[str] = []

    def second(*_: object) -> None:
        if not refused:
            with pytest.raises(GantkError, match="another process is stylising") as caught:
                stylize_folder(painter, folder, out)
            refused.append(str(caught.value))

    assert len(stylize_folder(painter, folder, out, progress=second).written) == 5
    assert refused


def test_killed_in_the_middle_it_goes_on(one_style: Path, painter: Painter, tmp_path: Path) -> None:
    """After kill -9 there are whole pictures and hidden partial ones, and a second run makes the rest."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for index in range(60):
        Image.fromarray(scene(160, 200, index)).save(source / f"{index:02d}.png")
    code = (
        "from pathlib import Path\n"
        "from gantk.stylize.folder import stylize_folder\n"
        "from gantk.stylize.network import Look, open_network\n"
        "from gantk.stylize.painter import Painter\n"
        f"network = open_network({str(one_style)!r}, 'onnxruntime', threads=1)\n"
        f"stylize_folder(Painter(network, Look()), Path({str(source)!r}), Path({str(out)!r}))\n"
    )
    for wanted in (3, 12):
        process = subprocess.Popen([sys.executable, "-c", code])
        _wait(process, (out.glob("*.png") for _ in iter(int, 1)), wanted)
        process.send_signal(signal.SIGKILL)
        process.wait()
        for path in out.glob("*.png"):
            assert read(path).pixels.shape == (160, 200, 3)
    (out / ".07.png.0123abcd.partial").write_bytes(b"half")
    (out / ".mine.0123abcd.partial").write_bytes(b"whole")
    done = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert 12 <= len(done) < 60
    result = stylize_folder(painter, source, out)
    assert len(result.kept) == len(done)
    assert len(result.written) == 60 - len(done)
    assert {name: (out / name).stat().st_mtime_ns for name in done} == done
    assert [path.name for path in out.glob(".*.partial")] == [".mine.0123abcd.partial"]


def _wait(process: subprocess.Popen[bytes], found: Iterator[Iterator[Path]], wanted: int) -> None:
    deadline = time.monotonic() + 60
    while len(list(next(found))) < wanted:
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)

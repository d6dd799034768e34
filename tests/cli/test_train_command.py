# SPDX-License-Identifier: Apache-2.0
"""`gantk train`: exit statuses, words and JSON."""

from __future__ import annotations

import json
import os
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gantk.cli.main import main

pytestmark = pytest.mark.usefixtures("blank_curves")

QUICK = "--size 32 --width 2 --batch 4 --steps 2 --threads 1 --precision fp32"


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(count):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{index}.png")
    return folder


def test_a_run_and_its_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data, run = pictures(tmp_path / "data", 8), tmp_path / "my run"
    (data / "cut.png").write_bytes((data / "0.png").read_bytes()[:400])
    (data / "text.jpg").write_text("hello")
    assert main(["train", "dcgan", "--data", str(data), "-o", str(run), *QUICK.split(), "--json", "-"]) == 0
    said = capsys.readouterr()
    assert "skipped 2 unreadable files" in said.err
    assert f"next: gantk generate '{run}', gantk export '{run}'\n" in said.err
    assert "cut.png`: image file is truncated" in said.err
    result = json.loads(said.out)
    assert (result["step"], result["epoch"], result["run"]) == (2, 1, str(run))

    assert main(["train", "dcgan", "-o", str(run), "--resume", "--steps", "3"]) == 0
    assert "goes on from step 2" in capsys.readouterr().err
    assert main(["train", "dcgan", "-o", str(run), "--resume"]) == 0
    assert "nothing to do: all 3 steps were done" in capsys.readouterr().err
    assert main(["train", "dcgan", "-o", str(run), "--resume", "--width", "4"]) == 2
    assert "has width 2 and cannot go on with 4" in capsys.readouterr().err


def test_why_so_many_channels_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    grey = tmp_path / "grey"
    grey.mkdir()
    for index in range(8):
        Image.new("L", (8, 8), 30 * index).save(grey / f"{index}.png")
    arguments = ["train", "dcgan", "--data", str(grey), *QUICK.split()]
    assert main([*arguments, "-o", str(tmp_path / "a")]) == 0
    assert "all pictures are grey: they are learned with one channel" in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(grey / "5.png")
    assert main([*arguments, "-o", str(tmp_path / "b")]) == 0
    assert "`5.png` has colours: pictures are learned with three channels" in capsys.readouterr().err
    assert main([*arguments, "-o", str(tmp_path / "c"), "--channels", "1"]) == 0
    assert "learned with" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        ("--data missing", 1, "`missing` does not exist"),
        ("--data empty", 1, "`empty` is empty"),
        ("--data text", 1, "has 1 file and no picture among them"),
        ("--data one --out out", 1, "has 1 readable picture; at least 2 are wanted"),
        ("--data two --out two", 1, "exists and is not a run"),
        ("--data two --out two --force", 1, "gantk replaces nothing else"),
        ("--data two --out one/0.png/run", 1, "cannot write"),
        ("", 2, "--data is missing"),
        ("--resume", 2, "which run"),
        ("--resume --out out", 1, "holds no run to resume"),
        ("--resume --force --out out", 2, "exclude each other"),
        ("--data two --size 50", 2, "28, 32, 64, 128"),
        ("--data two --precision fp8", 2, "auto, fp32, bf16, fp16"),
        ("--data two --batch many", 2, "'--batch'"),
        ("--data two --colour", 2, "--colour"),
    ],
)
def test_what_goes_wrong_is_said(
    arguments: str, status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("a")
    pictures(tmp_path / "one", 1)
    pictures(tmp_path / "two", 2)
    before = sorted(tmp_path.rglob("*"))
    with chdir(tmp_path):
        assert main(["train", "dcgan", *arguments.split()]) == status
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert sorted(tmp_path.rglob("*")) == before  # Nothing is lost, and nothing left lying about.


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o500)
    data = pictures(tmp_path / "data", 4)
    assert main(["train", "dcgan", "--data", str(data), "-o", str(locked / "run"), *QUICK.split()]) == 1
    assert "Permission denied" in capsys.readouterr().err


def test_the_full_disk_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(path: Path, data: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    data, run = pictures(tmp_path / "data", 8), tmp_path / "run"
    real = Path.write_bytes
    monkeypatch.setattr(
        Path, "write_bytes", lambda path, data: (full if ".safetensors" in path.name else real)(path, data)
    )
    assert main(["train", "dcgan", "--data", str(data), "-o", str(run), *QUICK.split()]) == 1
    said = capsys.readouterr().err
    assert "No space left on device" in said
    assert "MiB are free there" in said
    assert not list((run / "checkpoints").iterdir())

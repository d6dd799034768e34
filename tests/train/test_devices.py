# SPDX-License-Identifier: Apache-2.0
"""Two processes train one network."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from listener import Listener
from style_helpers import write_photos, write_style, write_vgg

from gantk import checkpoint
from gantk.cli.main import main
from gantk.errors import GantkError
from gantk.train import gan, sitting
from gantk.train.config import TrainConfig
from gantk.train.launch import launch

OPTIONS = [
    *("--width", "2", "--size", "32", "--batch", "8", "--threads", "2"),
    *("--steps", "4", "--sample-every", "1", "--log-every", "2"),
]


def train(pictures: Path, run: Path, *more: str) -> list[str]:
    return ["train", "dcgan", "--data", str(pictures), "--out", str(run), *OPTIONS, *more]


def check(run: Path) -> None:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "step"] == [2, 4]
    # Forty pictures give each of two processes two batches of eight.
    assert [line["epoch"] for line in lines if line["event"] == "snapshot"] == [1, 2]
    saved = checkpoint.read(checkpoint.path_of(run, 4))
    draws = [saved.tensors[f"rng.{rank}.draws"] for rank in (0, 1)]
    assert not draws[0].equal(draws[1])
    checkpoint.load_generator(run)


@pytest.mark.slow
def test_two_processes_on_the_cpu(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    assert main(train(pictures, run, "--devices", "2")) == 0
    check(run)
    assert main(["train", "dcgan", "--out", str(run), "--resume", "--steps", "6"]) == 0
    assert checkpoint.list_paths(run)[0].name == "step-0000006.safetensors"


@pytest.mark.slow
def test_an_error_in_a_process_is_ours(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], pictures: Path
) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted(pictures.iterdir())[:2]:
        (few / path.name).write_bytes(path.read_bytes())
    assert main(train(few, tmp_path / "run", "--devices", "2")) == 1
    assert "has 1 readable picture for each process; at least 2 are wanted" in capfd.readouterr().err


def interrupt(fabric: Any, config: TrainConfig) -> None:
    raise KeyboardInterrupt


@pytest.mark.slow
def test_an_interrupted_process_interrupts_all() -> None:
    """As where Ctrl-C comes while pictures are read."""
    with pytest.raises(KeyboardInterrupt):
        launch(interrupt, TrainConfig("data", "out", devices=2, precision="fp32", device="cpu", threads=2))


@pytest.mark.slow
def test_torchrun(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    subprocess.run([*launcher, "-m", "gantk", *train(pictures, run)], check=True, timeout=240)
    check(run)


def test_of_torchruns_processes_one_speaks_and_looks_for_room(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others may come when the first has begun to write."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setattr(sitting, "launch", lambda *given: given[-1])  # The reporter.
    (tmp_path / "begun").write_text("by the first")
    config, told = TrainConfig(data=str(pictures), out=str(tmp_path)), Listener()
    monkeypatch.setenv("RANK", "1")
    assert gan.train(config, reporter=told) is not told
    assert told.said == []
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(GantkError, match="exists and is not a run"):
        gan.train(config, reporter=told)
    assert told.said != []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["style", "adain"])
def test_two_processes_train_a_style_network(kind: str, tmp_path: Path) -> None:
    """Each draws its own styles; what they learn they share."""
    write_photos(tmp_path / "photos", 8)
    painting = write_style(tmp_path / "paintings" / "a.png", ((220, 30, 30), (20, 40, 220)), 8)
    write_style(tmp_path / "paintings" / "b.png", ((0, 0, 0), (255, 255, 255)), 3)
    vgg, run = write_vgg(tmp_path / "vgg.safetensors"), tmp_path / "run"
    own = {
        "style": ["--style", str(painting), "--style", str(painting), "--width", "2", "--blocks", "1"],
        "adain": ["--styles", str(painting.parent)],
    }
    common = "--size 64 --batch 2 --steps 4 --threads 2 --precision fp32 --devices 2 --log-every 2"
    places = ["--data", str(tmp_path / "photos"), "--vgg", str(vgg), "--out", str(run)]
    assert main(["train", kind, *places, *own[kind], *common.split()]) == 0
    saved = checkpoint.read(checkpoint.path_of(run, 4))
    draws = [saved.tensors[f"rng.{rank}.draws"] for rank in (0, 1)]
    assert not draws[0].equal(draws[1])
    assert main(["train", kind, "--out", str(run), "--resume", "--steps", "6"]) == 0
    assert checkpoint.list_paths(run)[0].name == "step-0000006.safetensors"

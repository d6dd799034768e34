# SPDX-License-Identifier: Apache-2.0
"""A style or AdaIN run that is killed and resumed ends with the weights of one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from style_helpers import write_photos, write_style, write_vgg

from gantk import checkpoint
from gantk.cli.main import main

STEPS = 10
OPTIONS = (
    "--size 64 --batch 2 --threads 1 --precision fp32 --device cpu --checkpoint-every 2 --log-every 3 "
    "--sample-every 2 --keep 100"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("style")
    write_photos(folder / "photos")
    write_style(folder / "paintings" / "flag.png", ((220, 30, 30), (20, 40, 220)), 8)
    write_style(folder / "paintings" / "zebra.png", ((0, 0, 0), (255, 255, 255)), 3)
    write_vgg(folder / "vgg.safetensors")
    return folder


def arguments(kind: str, files: Path, run: Path, steps: int) -> list[str]:
    paintings = files / "paintings"
    own = {
        "style": [
            *("--style", str(paintings / "flag.png"), "--style", str(paintings / "zebra.png")),
            *("--width", "2", "--blocks", "1"),
        ],
        "adain": ["--styles", str(paintings)],
    }
    return [
        *("train", kind, "--data", str(files / "photos"), "--vgg", str(files / "vgg.safetensors")),
        *("--out", str(run), *own[kind], *OPTIONS.split(), "--steps", str(steps)),
    ]


def lines(run: Path) -> list[dict[str, object]]:
    timed = ("samples_per_second", "data_wait_ms")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in timed} for record in records]


@pytest.mark.parametrize("kind", ["style", "adain"])
def test_sigkill_and_resume_give_bit_identical_weights(kind: str, files: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(arguments(kind, files, whole, STEPS)) == 0

    command = [sys.executable, "-m", "gantk", *arguments(kind, files, killed, 5000)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 120
    # Step 4 lies within an epoch of three steps.
    while not checkpoint.path_of(killed, 4).exists():
        assert process.poll() is None and time.monotonic() < end, "it ended before"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in checkpoint.list_paths(killed):
        if path > checkpoint.path_of(killed, 4):
            path.unlink()
    assert main(["train", kind, "--resume", "--out", str(killed), "--steps", str(STEPS)]) == 0

    first, second = (checkpoint.read(checkpoint.path_of(run, STEPS)) for run in (whole, killed))
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    assert lines(whole) == lines(killed)


def test_a_signal_ends_cleanly_with_a_checkpoint(files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [sys.executable, "-m", "gantk", *arguments("style", files, run, 100_000)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    end = time.monotonic() + 120
    while not checkpoint.path_of(run, 2).exists():
        assert process.poll() is None and time.monotonic() < end, "it ended before"
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    newest = checkpoint.read(checkpoint.list_paths(run)[0]).state["step"]
    assert f"interrupted after step {newest}, with a checkpoint" in said.decode()
    assert f"gantk train style --resume --out {run}" in said.decode().replace("\n", " ")
    assert not list(run.rglob("*.partial"))

# SPDX-License-Identifier: Apache-2.0
"""A run that is killed and resumed ends with the weights of one that was not."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from gantk import checkpoint
from gantk.cli.main import main
from gantk.errors import GantkError, UsageError
from gantk.train import gan
from gantk.train.config import TrainConfig
from gantk.train.reporter import Reporter

STEPS = 16  # Epochs have five.

# The fully connected discriminator has dropout, so that its random numbers are put to the test too. Convolutions in
# bf16 take a CPU without instructions for it twenty times as long.
MLP = "--network mlp --size 8 --threads 1 --precision bf16"
DCGAN = "--network dcgan --size 28 --width 4 --threads 2 --precision fp32"


def arguments(pictures: Path, run: Path, network: str, steps: int) -> list[str]:
    options = (
        f"{network} --batch 8 --flip --checkpoint-every 4 --log-every 3 --sample-every 4 --steps {steps}"
    )
    return ["train", "dcgan", "--data", str(pictures), "--out", str(run), *options.split()]


def command(pictures: Path, run: Path, network: str, steps: int) -> list[str]:
    return [sys.executable, "-m", "gantk", *arguments(pictures, run, network, steps)]


def wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None and time.monotonic() < end, "it ended before"
        time.sleep(0.002)


def lines(run: Path) -> list[dict[str, object]]:
    timed = ("samples_per_second", "data_wait_ms")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in timed} for record in records]


@pytest.mark.parametrize("network", [MLP, DCGAN], ids=["mlp", "dcgan"])
def test_sigkill_and_resume_give_bit_identical_weights(network: str, pictures: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(arguments(pictures, whole, network, STEPS)) == 0

    # Much longer, so that it is surely still at work when it is killed.
    process = subprocess.Popen(command(pictures, killed, network, 4000), stderr=subprocess.DEVNULL)
    wait_for(checkpoint.path_of(killed, 8), process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    for path in checkpoint.list_paths(killed):  # Go on from the middle of an epoch of five steps.
        if path > checkpoint.path_of(killed, 8):
            path.unlink()
    if not checkpoint.path_of(killed, 8).exists():
        pytest.skip("the machine was too slow to kill it in time")
    gan.resume(killed, {"steps": STEPS})

    first, second = (checkpoint.read(checkpoint.path_of(run, STEPS)) for run in (whole, killed))
    assert first.tensors.keys() == second.tensors.keys()
    for name, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[name]), name
    assert lines(whole) == lines(killed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_cleanly_with_a_checkpoint(
    pictures: Path, tmp_path: Path, number: signal.Signals
) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(command(pictures, run, MLP, 100_000), stderr=subprocess.PIPE)
    wait_for(checkpoint.path_of(run, 4), process)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    newest = checkpoint.read(checkpoint.list_paths(run)[0]).state["step"]
    assert f"interrupted after step {newest}, with a checkpoint" in said.decode()
    assert f"gantk train dcgan --resume --out {run}" in said.decode().replace("\n", " ")
    assert not list(run.rglob("*.partial"))


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    warn = say


def small(pictures: Path, run: Path, steps: int) -> TrainConfig:
    return TrainConfig(
        data=str(pictures), out=str(run), network="mlp", size=8, batch=8, steps=steps,
        threads=1, precision="fp32", checkpoint_every=3, sample_every=100,
    )  # fmt: skip


def test_a_damaged_checkpoint_is_passed_over(pictures: Path, tmp_path: Path) -> None:
    gan.train(small(pictures, tmp_path / "run", 6))
    newest = checkpoint.path_of(tmp_path / "run", 6)
    newest.write_bytes(newest.read_bytes()[:1000])
    listener = Listener()
    result = gan.resume(tmp_path / "run", {"steps": 8}, reporter=listener)
    assert result.step == 8
    assert any("step-0000006.safetensors" in text for text in listener.said)
    assert any("goes on from step 3" in text for text in listener.said)


def test_resume_refuses_other_mathematics_and_other_pictures(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gan.train(small(pictures, run, 3))
    with pytest.raises(UsageError, match=r"has lr_g 0\.0002 and cannot go on with 0\.1"):
        gan.resume(run, {"lr_g": 0.1})
    fewer = tmp_path / "fewer"
    fewer.mkdir()
    for path in sorted(pictures.iterdir())[:20]:
        os.link(path, fewer / path.name)
    with pytest.raises(GantkError, match="not those that the run began with"):
        gan.resume(run, {"data": str(fewer), "steps": 6})
    with pytest.raises(GantkError, match="no run to resume"):
        gan.resume(tmp_path / "nowhere")


def test_a_run_without_a_checkpoint_begins_anew(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gan.train(small(pictures, run, 3))
    before = checkpoint.read(checkpoint.path_of(run, 3))
    checkpoint.path_of(run, 3).unlink()
    gan.resume(run)
    after = checkpoint.read(checkpoint.path_of(run, 3))
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())

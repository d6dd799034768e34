# SPDX-License-Identifier: Apache-2.0
"""A run that is killed and resumed ends with the weights of one that was not; a signal ends it cleanly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import apart
import pytest
import torch
from style_helpers import write_photos, write_style, write_vgg

from gantk import checkpoint
from gantk.cli.main import main


@dataclass(frozen=True)
class Kind:
    """A training: its verb and options, a step within an epoch to kill it after, and its last in the next epoch."""

    options: str
    killed: int
    steps: int

    @property
    def verb(self) -> str:
        return self.options.split()[0]

    def arguments(self, files: Path, run: Path, steps: int) -> list[str]:
        paths = self.options.format(files=files)
        return ["train", *paths.split(), "--out", str(run), "--log-every", "3", "--steps", str(steps)]


_GAN = "dcgan --data {files}/squares --batch 8 --flip --checkpoint-every 4 --sample-every 4"
_STYLE = (
    "--data {files}/photos --vgg {files}/vgg.safetensors --size 64 --batch 1 --threads 1 --precision fp32 "
    "--device cpu --checkpoint-every 2 --sample-every 2 --keep 100"
)
KINDS = {
    # The fully connected discriminator has dropout, so that its random numbers are put to the test too. Convolutions
    # in bf16 take a CPU without instructions for it twenty times as long.
    "mlp": Kind(f"{_GAN} --network mlp --size 8 --threads 1 --precision bf16", 8, 12),
    "dcgan": Kind(
        f"{_GAN} --network dcgan --size 28 --width 4 --threads 2 --precision fp32 "
        "--augment color,translation,cutout", 8, 12,
    ),
    "style": Kind(
        f"style --style {{files}}/paintings/flag.png --style {{files}}/paintings/zebra.png --width 2 --blocks 1 "
        f"{_STYLE}", 4, 7,
    ),
    "adain": Kind(f"adain --styles {{files}}/paintings {_STYLE}", 4, 7),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Squares in epochs of five steps, photographs in epochs of six, two styles, and a VGG-19."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "squares").symlink_to(pictures)
    write_photos(folder / "photos")
    write_style(folder / "paintings" / "flag.png", ((220, 30, 30), (20, 40, 220)), 8)
    write_style(folder / "paintings" / "zebra.png", ((0, 0, 0), (255, 255, 255)), 3)
    write_vgg(folder / "vgg.safetensors")
    return folder


def lines(run: Path) -> list[dict[str, object]]:
    timed = ("samples_per_second", "data_wait_ms")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in record.items() if key not in timed} for record in records]


@pytest.mark.parametrize("name", KINDS)
def test_sigkill_and_resume_give_bit_identical_weights(name: str, files: Path, tmp_path: Path) -> None:
    kind, whole, killed = KINDS[name], tmp_path / "whole", tmp_path / "killed"
    assert main(kind.arguments(files, whole, kind.steps)) == 0

    # Much longer, so that it is surely still at work when it is killed.
    process = apart.start(kind.arguments(files, killed, 5000), tmp_path / "said")
    apart.wait_for(checkpoint.path_of(killed, kind.killed), process)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    for path in checkpoint.list_paths(killed):
        if path > checkpoint.path_of(killed, kind.killed):
            path.unlink()
    if not checkpoint.path_of(killed, kind.killed).exists():
        pytest.skip("the machine was too slow to kill it in time")
    assert main(["train", kind.verb, "--resume", "--out", str(killed), "--steps", str(kind.steps)]) == 0

    first, second = (checkpoint.read(checkpoint.path_of(run, kind.steps)) for run in (whole, killed))
    assert first.tensors.keys() == second.tensors.keys()
    for part, tensor in first.tensors.items():
        assert torch.equal(tensor, second.tensors[part]), part
    assert lines(whole) == lines(killed)


@pytest.mark.parametrize(
    ("name", "number"),
    [("mlp", signal.SIGINT), ("mlp", signal.SIGTERM), ("mlp", signal.SIGHUP), ("style", signal.SIGINT)],
)
def test_a_signal_ends_cleanly_with_a_checkpoint(
    name: str, number: signal.Signals, files: Path, tmp_path: Path
) -> None:
    kind, run, output = KINDS[name], tmp_path / "run", tmp_path / "said"
    told = tmp_path / "told.json"
    process = apart.start([*kind.arguments(files, run, 100_000), "--json", str(told)], output)
    apart.wait_for(checkpoint.path_of(run, kind.killed // 2), process)
    assert process.pid is not None
    os.kill(process.pid, number)
    process.join(60)
    assert process.exitcode == 128 + number
    said = output.read_text().replace("\n", " ")
    newest = checkpoint.read(checkpoint.list_paths(run)[0]).state["step"]
    assert f"interrupted after step {newest}, with a checkpoint" in said
    result = json.loads(told.read_text())
    assert (result["interrupted"], result["step"]) == (True, newest)
    assert f"gantk train {kind.verb} --resume --out {run}" in said
    assert not list(run.rglob("*.partial"))


def test_what_is_said_to_a_terminal_that_is_gone_fails_nobody() -> None:
    code = (
        "import sys\nfrom gantk.train.interrupt import leave_terminal\n"
        "sys.stdin.read()\nleave_terminal()\nprint('said', flush=True)\nprint('said', file=sys.stderr)"
    )
    terminal, side = os.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=side, stderr=side
    ) as process:
        os.close(side)
        os.close(terminal)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_nohup_holds() -> None:
    """What it makes a program deaf to stays so."""
    code = (
        "import os, signal\nfrom gantk.train.interrupt import Interruption\n"
        "with Interruption() as told:\n    os.kill(os.getpid(), signal.SIGHUP)\nassert not told.requested"
    )
    assert subprocess.run(["nohup", sys.executable, "-c", code], check=False).returncode == 0

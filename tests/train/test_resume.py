# SPDX-License-Identifier: Apache-2.0
"""A run goes on from its newest whole checkpoint, on the pictures and the mathematics that it began with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from listener import Listener

import gantk
from gantk import checkpoint
from gantk.errors import GantkError, UsageError
from gantk.files import partial_name
from gantk.train import gan, run_folder
from gantk.train.config import TrainConfig


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


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("batch", "ten", r"batch is 'ten'; int is wanted"),
        ("lr_g", "0.1", r"lr_g is '0\.1'; float is wanted"),
        ("steps", True, r"steps is True; int \| None is wanted"),
        ("classes", ["a", 3], r"classes is \('a', 3\); tuple\[str, \.\.\.\] is wanted"),
        ("network", "vae", r"network is 'vae'; allowed are dcgan, mlp"),
        ("data", None, r"data is None; str is wanted"),
        ("data", ..., r"data is not there"),
        ("skip_d_bellow", 0.5, rf"gantk {gantk.__version__} knows no skip_d_bellow"),
    ],
)
def test_a_configuration_that_was_edited_is_named(
    field: str, value: object, words: str, pictures: Path, tmp_path: Path
) -> None:
    edited = {**small(pictures, tmp_path, 3).to_json(), field: value}
    given = {name: each for name, each in edited.items() if each is not ...}
    run_folder.write(tmp_path, "dcgan", given, {})
    with pytest.raises(GantkError, match=rf"run\.json` cannot be understood: {words}") as raised:
        gan.resume(tmp_path)
    assert raised.value.exit_code == 1


def test_a_run_goes_on_from_another_folder(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pictures.parent)
    run = tmp_path / "run"
    gan.train(small(Path(pictures.name), run, 3))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        GantkError, match=f"has data `{pictures.name}`, which does not exist from here"
    ) as told:
        gan.resume(run, {"steps": 6})
    assert told.value.hint is not None and told.value.hint.startswith("--data ")
    assert gan.resume(run, {"steps": 6, "data": str(pictures)}).step == 6


def test_a_run_of_a_later_version_is_called_so(pictures: Path, tmp_path: Path) -> None:
    run_folder.write(tmp_path, "dcgan", small(pictures, tmp_path, 3).to_json(), {})
    path = tmp_path / "run.json"
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 2'))
    with pytest.raises(GantkError, match=r"run\.json` has schema 2; this gantk reads schema 1") as raised:
        gan.resume(tmp_path)
    assert raised.value.hint == "pip install -U gantk"


def test_what_a_killed_run_half_wrote_is_swept(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gan.train(small(pictures, run, 3))
    left = [partial_name(checkpoint.path_of(run, 6)), partial_name(run / "run.json")]
    # An export into the run, which is under way or was killed, is not the training's to remove.
    bundle, picture = partial_name(run / "x.gantk"), partial_name(run / "grid.png")
    bundle.mkdir()
    others = [partial_name(bundle / "model.fp32.onnx"), picture]
    for path in (*left, *others):
        path.write_bytes(b"cut")
    gan.resume(run, {"steps": 4})
    assert [path for path in (*left, *others) if path.exists()] == others


def test_a_run_without_a_checkpoint_begins_anew(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    gan.train(small(pictures, run, 3))
    before = checkpoint.read(checkpoint.path_of(run, 3))
    checkpoint.path_of(run, 3).unlink()
    gan.resume(run)
    after = checkpoint.read(checkpoint.path_of(run, 3))
    assert all(torch.equal(tensor, after.tensors[name]) for name, tensor in before.tensors.items())

# SPDX-License-Identifier: Apache-2.0
"""A checkpoint is read back exactly, or refused in words."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from gantk import checkpoint, models
from gantk.bundle.reading import printable
from gantk.errors import GantkError

CONFIG = {"size": 28, "channels": 1, "latent_size": 8, "width": 2}
STATE = {"schema": 1, "family": "dcgan", "config": CONFIG, "step": 7}


def generator(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return models.build("dcgan", CONFIG).eval()


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {f"ema.{name}": tensor for name, tensor in module.state_dict().items()}


def write(path: Path, **changes: Any) -> nn.Module:
    module = generator()
    checkpoint.write(path, tensors(module), {**STATE, **changes})
    return module


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    module = write(path)
    read = checkpoint.read(path)
    assert read.state == STATE
    for name, tensor in module.state_dict().items():
        assert torch.equal(read.part("ema")[name], tensor)


def test_a_generator_comes_from_a_run_a_file_and_lone_bytes(tmp_path: Path) -> None:
    run = tmp_path / "flowers"
    path = checkpoint.path_of(run, 7)
    module = write(path)
    lone = tmp_path / "generator.safetensors"
    lone.write_bytes(checkpoint.generator_bytes(module))
    latent = torch.randn(3, 8)
    for source, name in ((run, "flowers"), (path, "flowers"), (lone, "generator")):
        loaded = checkpoint.load_generator(source)
        assert (loaded.family, loaded.name, loaded.config) == ("dcgan", name, CONFIG)
        assert torch.equal(loaded.module(latent), module(latent))
        assert not any(parameter.requires_grad for parameter in loaded.module.parameters())


def test_the_newest_whole_checkpoint_is_taken(tmp_path: Path) -> None:
    for step in (5, 9, 12):
        write(checkpoint.path_of(tmp_path, step), step=step)
    newest = checkpoint.path_of(tmp_path, 12)
    newest.write_bytes(newest.read_bytes()[:-100])
    read, path, problems = checkpoint.read_newest(tmp_path)
    assert (read.state["step"], path.name) == (9, "step-0000009.safetensors")
    assert "step-0000012.safetensors" in problems[0].what


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.integers(0, 10_000))
def test_a_cut_file_is_refused(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("cut") / "a.safetensors"
    write(path)
    data = path.read_bytes()
    path.write_bytes(data[: random.Random(seed).randrange(len(data))])
    with pytest.raises(GantkError, match=r"a\.safetensors"):
        checkpoint.read(path)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(st.integers(0, 10_000), st.integers(0, 7))
def test_a_flipped_bit_is_refused(tmp_path_factory: pytest.TempPathFactory, seed: int, bit: int) -> None:
    path = tmp_path_factory.mktemp("flipped") / "a.safetensors"
    write(path)
    data = bytearray(path.read_bytes())
    data[random.Random(seed).randrange(len(data))] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(GantkError, match=r"a\.safetensors"):
        checkpoint.read(path)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(st.binary(max_size=200))
def test_other_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("other") / "a.safetensors"
    path.write_bytes(data)
    with pytest.raises(GantkError, match="not a whole checkpoint|no checkpoint of gantk"):
        checkpoint.read(path)


@pytest.mark.parametrize("name", ["theirs.pth", "theirs.safetensors", "named.safetensors"])
def test_weights_of_another_program_are_to_be_imported(tmp_path: Path, name: str) -> None:
    path, weights = tmp_path / name, {"conv1.weight": torch.zeros(3)}
    if path.suffix == ".pth":
        torch.save(weights, path)
    else:
        save_file(weights, path, {"format": "pt"} if name == "named.safetensors" else None)
    with pytest.raises(GantkError, match=f"`{name}` is no checkpoint of gantk") as told:
        checkpoint.load_generator(path)
    assert told.value.hint is not None and "gantk import -h" in told.value.hint


def test_a_run_may_be_called_anything(tmp_path: Path) -> None:
    """A bundle's manifest holds the name, and takes what can be printed alone."""
    for name in ("two\nlines", "not\udcffutf-8", "b" * 200):
        write(checkpoint.path_of(tmp_path / name, 7))
        assert printable(checkpoint.load_generator(tmp_path / name).name) == re.sub(
            "[\n\udcff]", "\ufffd", name
        )


def test_another_architecture_is_told_by_its_names_and_shapes(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write(path, config={**CONFIG, "width": 4})
    with pytest.raises(GantkError, match=r"project\.0\.weight is \[196, 8\], not \[392, 8\]"):
        checkpoint.load_generator(path)
    write(path, config={**CONFIG, "size": 32})
    with pytest.raises(
        GantkError, match=r"lacks enlarge\.4\.weight, .* and 4 more; has enlarge\.3\.bias too"
    ):
        checkpoint.load_generator(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "vae"}, "there is no network 'vae'"),
        ({"config": {"size": 5}}, "size is 5"),
        ({"schema": 2}, "schema 2"),
        ({"step": "7"}, "lacks one of schema, family, config, step"),
    ],
)
def test_a_state_that_cannot_be_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "a.safetensors"
    write(path, **changes)
    with pytest.raises(GantkError, match=words):
        checkpoint.load_generator(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    module = generator()
    bad = tensors(module)
    bad["ema.enlarge.0.weight"] = bad["ema.enlarge.0.weight"].clone().fill_(float("nan"))
    checkpoint.write(path, bad, STATE)
    with pytest.raises(GantkError, match=r"enlarge\.0\.weight has values that are NaN"):
        checkpoint.load_generator(path)


def test_nothing_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(GantkError, match="No such file"):
        checkpoint.load_generator(tmp_path / "no")
    with pytest.raises(GantkError, match="neither a run nor a bundle"):
        checkpoint.load_generator(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(GantkError, match="has no checkpoint"):
        checkpoint.load_generator(tmp_path)


def test_a_hint_can_be_copied_into_a_shell_whatever_the_names(tmp_path: Path) -> None:
    folder = tmp_path / "my runs; all"
    folder.mkdir()
    with pytest.raises(GantkError) as caught:
        checkpoint.load_generator(folder)
    assert str(folder) in shlex.split((caught.value.hint or "").partition(" makes one")[0])

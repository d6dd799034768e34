# SPDX-License-Identifier: Apache-2.0
"""`gantk generate`, as a user calls it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import networks
from gantk.runtime import registry
from gantk.runtime.registry import BackendStatus
from gantk.tensors import TensorSpec

Gantk = Callable[..., Any]
WORKING = [name for name in registry.BACKENDS if registry.status(name).works]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("RGB")).astype(int)


def test_the_same_seed_gives_the_same_pictures_everywhere(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    sheets = []
    for backend in WORKING:
        assert (
            gantk(
                "generate", bundle, "-n", 5, "--seed", 3, "-o", f"{backend}.png", "--backend", backend
            ).status
            == 0
        )
        sheets.append(pixels(tmp_path / f"{backend}.png"))
    assert gantk("generate", bundle, "-n", 5, "--seed", 3, "-o", "one.png", "--batch", 1).status == 0
    sheets.append(pixels(tmp_path / "one.png"))
    assert all(np.abs(sheet - sheets[0]).max() <= 1 for sheet in sheets)
    assert gantk("generate", bundle, "-n", 5, "--seed", 4, "-o", "other.png").status == 0
    assert np.abs(pixels(tmp_path / "other.png") - sheets[0]).max() > 50


def test_single_pictures_are_those_of_the_grid(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    assert gantk("generate", bundle, "-n", 3, "-o", "grid.png", "--columns", 3).status == 0
    done = gantk("generate", bundle, "-n", 3, "-o", "single/", "--json", "-")
    assert done.json["files"] == [f"single/000{index}.png" for index in range(3)]
    sheet = pixels(tmp_path / "grid.png")
    for index in range(3):
        cell = sheet[2:10, 2 + 10 * index : 10 + 10 * index]
        np.testing.assert_array_equal(pixels(tmp_path / "single" / f"000{index}.png"), cell)


def test_more_pictures_begin_with_the_same(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    gantk("generate", bundle, "-n", 2, "-o", "few/")
    gantk("generate", bundle, "-n", 20, "-o", "many/")
    for index in range(2):
        few, many = (pixels(tmp_path / name / f"000{index}.png") for name in ("few", "many"))
        assert np.abs(few - many).max() <= 1


@pytest.mark.parametrize("suffix", ["gif", "webp"])
def test_a_walk_is_animated_and_closed(gantk: Gantk, bundle: Path, tmp_path: Path, suffix: str) -> None:
    done = gantk("generate", bundle, "--walk", "-n", 4, "-o", f"walk.{suffix}", "--frames", 24, "--stops", 3)
    assert done.status == 0, done.err
    with Image.open(tmp_path / f"walk.{suffix}") as opened:
        assert opened.n_frames == 24
        assert opened.size == (22, 22)
        frames = []
        for index in range(24):
            opened.seek(index)
            frames.append(np.asarray(opened.convert("RGB")).astype(int))
    steps = [np.abs(frames[index] - frames[index - 1]).mean() for index in range(24)]
    assert max(steps) < np.abs(frames[0] - frames[12]).mean()  # Also from the last frame to the first.
    assert max(steps) > 0


def test_pictures_of_bytes_are_taken_as_they_are(gantk: Gantk, tmp_path: Path) -> None:
    (tmp_path / "f.onnx").write_bytes(networks.generator())
    (tmp_path / "u.onnx").write_bytes(networks.generator(pictures=True))
    assert gantk("generate", "f.onnx", "-o", "f.png", "-n", 4).status == 0
    assert gantk("generate", "u.onnx", "-o", "u.png", "-n", 4).status == 0
    assert np.abs(pixels(tmp_path / "f.png") - pixels(tmp_path / "u.png")).max() <= 1


def test_truncation_of_zero_is_one_picture(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    assert gantk("generate", bundle, "-n", 3, "-o", "t/", "--truncation", 0).status == 0
    first = pixels(tmp_path / "t" / "0000.png")
    assert all(np.array_equal(first, pixels(tmp_path / "t" / f"000{index}.png")) for index in range(3))


def test_a_fixed_batch_is_filled_up(gantk: Gantk, tmp_path: Path) -> None:
    import onnx

    proto = onnx.load_from_string(networks.generator(metadata=False))
    for value in (proto.graph.input[0], proto.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    (tmp_path / "fixed.onnx").write_bytes(proto.SerializeToString())
    (tmp_path / "free.onnx").write_bytes(networks.generator())
    assert gantk("generate", "fixed.onnx", "-n", 6, "-o", "fixed.png").status == 0
    assert gantk("generate", "free.onnx", "-n", 6, "-o", "free.png").status == 0
    assert np.abs(pixels(tmp_path / "fixed.png") - pixels(tmp_path / "free.png")).max() <= 1


@pytest.mark.parametrize(
    ("line", "status", "says"),
    [
        ("nothing", 1, "does not exist"),
        ("tiny.gantk -o grid.bmp", 2, "known are .png, .webp, .jpg, .jpeg"),
        ("tiny.gantk --walk -o grid.png", 2, "known are .gif, .webp"),
        ("tiny.gantk --walk -o walk.gif --fps 90", 2, "up to 50"),
        ("tiny.gantk -o taken.png", 1, "`taken.png` exists"),
        ("tiny.gantk -o taken.png/deep.png", 1, "cannot write"),
        ("nothing -o taken.png/deep.png", 1, "cannot write"),  # Before there is anything to lose.
        ("tiny.gantk --each -o taken.png", 2, "single pictures want a folder"),
        ("tiny.gantk --backend jax", 2, "'jax' is not a backend"),
        ("tiny.gantk --precision fp4", 2, "'fp4' is not a precision"),
        ("tiny.gantk --precision int8", 1, "no int8 (plain) variant"),
        ("plain.onnx", 1, "is not a generator"),
        ("cut.onnx", 1, "is not an ONNX file"),
        ("a-run --precision fp16", 2, "PyTorch paints it"),
    ],
)
def test_generate_refuses(gantk: Gantk, tmp_path: Path, line: str, status: int, says: str) -> None:

    networks.bundle(tmp_path / "tiny.gantk")
    (tmp_path / "taken.png").write_text("mine")
    (tmp_path / "a-run").mkdir()
    (tmp_path / "cut.onnx").write_bytes(networks.generator()[:-700])
    spec = [TensorSpec(name, "float32", ("N", 3)) for name in "xy"]
    (tmp_path / "plain.onnx").write_bytes(networks.simple("Relu", spec[:1], spec[1]))
    before = {path.name for path in tmp_path.iterdir()}
    done = gantk("generate", *line.split())
    assert says in done.err
    assert done.status == status
    assert {path.name for path in tmp_path.iterdir()} == before
    assert (tmp_path / "taken.png").read_text() == "mine"


def test_force_replaces(gantk: Gantk, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "taken.png").write_text("mine")
    assert gantk("generate", bundle, "-o", "taken.png", "--force", "-n", 1).status == 0
    assert pixels(tmp_path / "taken.png").shape == (12, 12, 3)


def test_a_missing_backend_exits_with_3(gantk: Gantk, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    status = BackendStatus("openvino", None, (), "it is not installed", "pip install 'gantk[openvino]'")
    monkeypatch.setattr(registry._module("openvino"), "probe", lambda: status)
    for verb in ("generate", "run"):
        done = gantk(verb, bundle, "--backend", "openvino", "--json", "-")
        assert (done.status, done.json["hint"]) == (3, "pip install 'gantk[openvino]'")

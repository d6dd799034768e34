# SPDX-License-Identifier: Apache-2.0
"""`gantk generate` with a generator that knows classes: of a run, a bundle and a lone file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from gantk import checkpoint, models
from gantk.export import export
from gantk.generate import latents

Gantk = Callable[..., Any]
CLASSES = ["bright", "dark", "odd"]


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint, a bundle and a lone file of one generator, whose classes look different."""
    folder = tmp_path_factory.mktemp("classes")
    torch.manual_seed(0)
    generator = models.build(
        "dcgan", {"size": 28, "channels": 1, "latent_size": 6, "width": 2, "classes": CLASSES}
    )
    with torch.no_grad():
        for name, parameter in generator.named_parameters():
            if parameter.ndim > 1:
                parameter.mul_(200 if name.startswith("class_") else 20)
    (folder / "run.safetensors").write_bytes(checkpoint.generator_bytes(generator))
    bundle = export(folder / "run.safetensors", folder / "x.gantk", precisions=("fp32",), rewrites=False)
    (folder / "lone.onnx").write_bytes(bundle.read_file(bundle.find("fp32").file))
    return {"run": folder / "run.safetensors", "bundle": bundle.root, "file": folder / "lone.onnx"}


def wanted(source: Path, labels: list[int]) -> np.ndarray:
    """What PyTorch makes of the first latents and these labels: [N, 28, 28] from 0 to 255."""
    module = checkpoint.load_generator(source).module
    pictures = module(torch.from_numpy(latents(len(labels), (6,), seed=0)), torch.tensor(labels))
    return (pictures[:, 0].numpy() + 1) * 127.5


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as opened:
        return np.asarray(opened.convert("L")).astype(float)


def painted(folder: Path, count: int) -> np.ndarray:
    return np.stack([pixels(folder / f"{index:04d}.png") for index in range(count)])


@pytest.mark.parametrize("kind", ["run", "bundle", "file"])
def test_classes_take_turns_or_one_is_chosen(
    gantk: Gantk, sources: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    assert gantk("generate", sources[kind], "-n", 5, "-o", "all/").status == 0
    assert gantk("generate", sources[kind], "-n", 5, "-o", "odd/", "--class", "odd").status == 0
    for name, labels in (("all", [0, 1, 2, 0, 1]), ("odd", [2] * 5)):
        assert np.abs(painted(tmp_path / name, 5) - wanted(sources["run"], labels)).max() < 1
    assert np.abs(painted(tmp_path / "all", 5) - painted(tmp_path / "odd", 5))[[0, 1, 3, 4]].mean() > 20


def test_a_grid_has_a_column_for_each_class(gantk: Gantk, sources: dict[str, Path], tmp_path: Path) -> None:
    assert gantk("generate", sources["bundle"], "-n", 6).status == 0
    assert pixels(tmp_path / "grid.png").shape == (2 * 30 + 2, 3 * 30 + 2)
    assert gantk("generate", sources["bundle"], "-n", 4, "--class", "dark", "--force").status == 0
    assert pixels(tmp_path / "grid.png").shape == (2 * 30 + 2, 2 * 30 + 2)


def test_every_picture_of_a_walk_keeps_its_class(
    gantk: Gantk, sources: dict[str, Path], tmp_path: Path
) -> None:
    line = (
        "generate",
        sources["bundle"],
        "--walk",
        "-n",
        3,
        "--frames",
        4,
        "--stops",
        2,
        "--truncation",
        0.1,
    )
    assert gantk(*line, "-o", "walk.webp").status == 0
    frames = []
    with Image.open(tmp_path / "walk.webp") as opened:
        for frame in range(4):
            opened.seek(frame)
            pixels = np.asarray(opened.convert("L")).astype(float)
            frames.append(np.stack([pixels[2:30, 2 + 30 * place : 30 + 30 * place] for place in range(3)]))
    # Latents are close to zero, so that hardly anything but classes makes pictures differ.
    assert max(np.abs(frame - frames[0]).mean() for frame in frames) < 8
    assert min(np.abs(frames[0][i] - frames[-1][j]).mean() for i, j in ((0, 1), (0, 2), (1, 2))) > 16


def test_a_class_that_is_not_there_is_refused(gantk: Gantk, sources: dict[str, Path], bundle: Path) -> None:
    done = gantk("generate", sources["bundle"], "--class", "grey")
    assert done.status == 2
    assert "no class 'grey'; there are bright, dark, odd" in done.err
    done = gantk("generate", bundle, "--class", "grey")
    assert done.status == 2
    assert "it was trained without --conditional" in done.err

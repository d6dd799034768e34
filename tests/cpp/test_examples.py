# SPDX-License-Identifier: Apache-2.0
"""The examples do what their READMEs say, on networks small enough for a test."""

from __future__ import annotations

import re
import runpy
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import gantk
import networks
import style_networks
from cpp_library import SOURCE
from gantk.runtime.pictures import load
from style_pictures import write_stripes


def call(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)


def scene(path: Path, height: int, width: int) -> Path:
    """A disc on a gradient."""
    y, x = np.mgrid[:height, :width]
    disc = ((x - width / 2) ** 2 + (y - height / 2) ** 2 < height * width / 16)[..., None]
    ground = np.stack([x * 255 // width, y * 255 // height, np.full_like(x, 90)], -1)
    Image.fromarray(np.where(disc, (220, 160, 40), ground).astype(np.uint8)).save(path)
    return path


def test_stylize_in_both_languages(built: Path, tmp_path: Path) -> None:
    style_networks.style_bundle(tmp_path / "x.gantk")
    picture = scene(tmp_path / "scene.png", 31, 45)
    done = call(built / "examples/gantk_stylize", tmp_path / "x.gantk", picture, tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    main = runpy.run_path(str(SOURCE / "examples/python/stylize.py"))["main"]
    main(str(tmp_path / "x.gantk"), str(picture), str(tmp_path / "python.png"))
    found, wanted = load(tmp_path / "out.png")[0], load(tmp_path / "python.png")[0]
    assert found.shape == (31, 45, 3)
    # By the default number of threads sums may be taken in another order.
    assert np.abs(found.astype(int) - wanted).max() <= 1
    assert found.std() > 5


def test_jpegs_are_read_as_python_reads_them(built: Path, tmp_path: Path) -> None:
    style_networks.style_bundle(tmp_path / "x.gantk")
    picture = scene(tmp_path / "scene.jpg", 24, 24)
    done = call(built / "examples/gantk_stylize", tmp_path / "x.gantk", picture, tmp_path / "out.png")
    assert done.returncode == 0, done.stderr
    with gantk.open(tmp_path / "x.gantk", "onnxruntime") as runner:
        wanted = runner.run({"picture": load(picture)})["stylized"][0]
    assert np.abs(load(tmp_path / "out.png")[0].astype(int) - wanted).mean() < 2


def test_generate(built: Path, tmp_path: Path) -> None:
    networks.bundle(tmp_path / "x.gantk")
    for name, seed in (("a", 3), ("again", 3), ("b", 4)):
        done = call(
            built / "examples/gantk_generate", tmp_path / "x.gantk", tmp_path / f"{name}.png", 7, seed
        )
        assert done.returncode == 0, done.stderr
    a, again, b = (load(tmp_path / f"{name}.png")[0] for name in ("a", "again", "b"))
    assert a.shape == (3 * 10 + 2, 3 * 10 + 2, 3)
    np.testing.assert_array_equal(a, again)
    assert not np.array_equal(a, b)
    assert (a[:2] == 0).all()
    assert (a[22:, 12:] == 0).all()  # Seven pictures in nine places.
    assert a[2:10, 2:10].std() > 10


def test_generate_says_that_a_network_is_no_generator(built: Path, tmp_path: Path) -> None:
    style_networks.style_bundle(tmp_path / "x.gantk")
    done = call(built / "examples/gantk_generate", tmp_path / "x.gantk", tmp_path / "a.png")
    assert done.returncode == 1
    said = "error: the network takes picture: uint8[N x H x W x 3]; a generator takes latent vectors\n"
    assert done.stderr.startswith(said)


def test_camera(built: Path, tmp_path: Path) -> None:
    style_networks.style_bundle(tmp_path / "x.gantk")
    (tmp_path / "frames").mkdir()
    for index in range(5):
        scene(tmp_path / f"frames/{index}.png", 20 if index < 4 else 24, 28)
    done = call(built / "examples/gantk_camera", tmp_path / "x.gantk", tmp_path / "frames", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    said = re.fullmatch(
        r"5 frames, first ([\d.]+) ms, p50 ([\d.]+) ms, p90 ([\d.]+) ms, p99 ([\d.]+) ms\n", done.stdout
    )
    assert said is not None, done.stdout
    _, p50, p90, p99 = map(float, said.groups())
    assert 0 < p50 <= p90 <= p99
    assert [load(tmp_path / f"out/{index}.png").shape[1:3] for index in range(5)] == [(20, 28)] * 4 + [
        (24, 28)
    ]
    with gantk.open(tmp_path / "x.gantk", "onnxruntime") as runner:
        wanted = runner.run({"picture": load(tmp_path / "frames/4.png")})["stylized"][0]
    assert np.abs(load(tmp_path / "out/4.png")[0].astype(int) - wanted).max() <= 1


def test_gatys(built: Path, exported_step: Path, tmp_path: Path) -> None:
    content = scene(tmp_path / "content.png", 36, 48)
    style = write_stripes(tmp_path / "style.png", 40)
    words = (exported_step, content, style, tmp_path / "out.png", 40, 30)
    done = call(built / "examples/gantk_gatys", *words)
    assert done.returncode == 0, done.stderr
    losses = [
        tuple(map(float, re.findall(r"(?:content|style) ([\d.e+-]+)", line)))
        for line in done.stderr.splitlines()
    ]
    assert len(losses) == 4
    assert losses[0][0] < 1e-6  # It begins at the content.
    assert losses[-1][1] < 0.5 * losses[0][1]
    painted = load(tmp_path / "out.png")[0]
    assert painted.shape == (30, 40, 3)
    assert painted.std() > 10


@pytest.mark.parametrize("example", ["stylize", "generate", "camera", "gatys"])
def test_what_goes_wrong_is_said(built: Path, tmp_path: Path, example: str) -> None:
    program = built / f"examples/gantk_{example}"
    done = call(program)
    assert done.returncode == 2
    assert done.stderr.startswith(f"usage: gantk_{example} ")
    done = call(program, *["none"] * {"gatys": 4, "generate": 2}.get(example, 3))
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "none" in done.stderr


@pytest.mark.parametrize(
    "words",
    [("generate", "x.gantk", "grid.png", "many"), ("gatys", "step.gantk", "a.png", "b.png", "out.png", "-3")],
)
def test_what_is_no_number_is_said(built: Path, words: tuple[str, ...]) -> None:
    done = call(built / f"examples/gantk_{words[0]}", *words[1:])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: '{words[-1]}' is not a number, at least 0\n"


def test_each_example_has_a_readme() -> None:
    folders = [path for path in (SOURCE / "examples").iterdir() if path.is_dir()]
    assert len(folders) == 5
    for folder in folders:
        assert (folder / "README.md").read_text().startswith(f"# {folder.name}\n")

# SPDX-License-Identifier: Apache-2.0
"""`gantk stylize` by optimisation, as a user calls it."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Two pictures, and random weights of VGG-19 to relu1_2."""
    Image.radial_gradient("L").convert("RGB").resize((40, 30)).save(tmp_path / "content.png")
    Image.linear_gradient("L").convert("RGB").resize((32, 32)).save(tmp_path / "style.png")
    rng = torch.Generator().manual_seed(0)
    shapes = {"0": (64, 3, 3, 3), "2": (64, 64, 3, 3)}
    weights = {f"{index}.weight": torch.randn(shape, generator=rng) * 0.1 for index, shape in shapes.items()}
    biases = {f"{index}.bias": torch.zeros(64) for index in shapes}
    save_file({**weights, **biases}, tmp_path / "vgg.safetensors")
    return tmp_path


PLAIN = (
    "stylize",
    "content.png",
    "--style",
    "style.png",
    "--vgg",
    "vgg.safetensors",
    "--size",
    "40",
    "--threads",
    "1",
)


def test_it_paints_and_says_what_it_did(gantk: Callable[..., Any], files: Path) -> None:
    done = gantk(*PLAIN, "--steps", 3, "--json", "-", "-o", "out.webp")
    assert done.status == 0, done.err
    assert "wrote out.webp (40 x 30) and out.losses.png after 3 steps" in done.err
    assert done.json["size"] == [40, 30]
    assert done.json["losses"]["style"] > 0
    assert done.json["config"]["style_weight"] == 30.0
    with Image.open("out.webp") as picture, Image.open("out.losses.png") as curves:
        assert picture.size == (40, 30)
        assert curves.size[0] > 400


def test_the_name_of_the_result_has_a_default_and_nothing_is_replaced(
    gantk: Callable[..., Any], files: Path
) -> None:
    assert gantk(*PLAIN, "--steps", 1).status == 0
    first = Path("content-stylized.png").read_bytes()
    again = gantk(*PLAIN, "--steps", 1)
    assert again.status == 1
    assert "`content-stylized.png` exists" in again.err
    assert "--force" in again.err
    assert gantk(*PLAIN, "--steps", 2, "--init", "noise", "--force").status == 0
    assert Path("content-stylized.png").read_bytes() != first


def test_options_win_over_a_preset(gantk: Callable[..., Any], files: Path) -> None:
    done = gantk(*PLAIN, "--preset", "lesson-blend", "--steps", 2, "--style-weight", 7, "--json", "told.json")
    assert done.status == 0, done.err
    told = json.loads(Path("told.json").read_text())["config"]
    assert (told["steps"], told["style_weight"]) == (2, 7.0)
    assert (told["init"], told["optimizer"], told["lr"], told["beta1"], told["adam_eps"]) == (
        "blend", "adam", 0.002, 0.99, 0.1,
    )  # fmt: skip
    assert (told["variation_weight"], told["measure"]) == (30.0, "sums")


@pytest.mark.parametrize(
    ("options", "status", "words"),
    [
        (("--preset", "lesson"), 2, "there are lesson-content-noise, lesson-style-noise, lesson-blend"),
        (("--style-layers", "relu9_9"), 2, "it has relu1_1, relu1_2"),
        (("--style-layers", "relu4_1"), 1, "its last is relu1_2"),
        (("--init", "style"), 2, "allowed are content, noise, blend"),
        (("--vgg", "style.png"), 1, "style.png"),
        (("--mask", "style.png", "--mask", "style.png"), 2, "one for each is wanted"),
        (("-o", "out.tga"), 2, "known are .png"),
    ],
)
def test_wrong_options_and_files_are_named(
    options: tuple[str, ...], status: int, words: str, gantk: Callable[..., Any], files: Path
) -> None:
    done = gantk(*PLAIN, "--steps", 1, *options, "--json", "-")
    assert done.status == status
    assert words in done.err
    assert done.json["exit_code"] == status
    assert not list(files.glob("content-stylized*"))


@pytest.mark.parametrize("content", [["."], ["clip.mp4"], ["content.png", "style.png"]])
def test_what_only_a_network_paints_is_told_so(
    content: list[str], gantk: Callable[..., Any], files: Path
) -> None:
    done = gantk("stylize", *content, "--style", "style.png")
    assert done.status == 2
    assert "several, a folder or a video want --model" in done.err


def test_no_warning_of_pillow_is_shown(gantk: Callable[..., Any], files: Path) -> None:
    """Its limit is lower than ours, which is told in words."""
    Image.new("1", (12000, 9000)).save("large.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        done = gantk(*PLAIN, "--style", "large.png")
    assert "12000 x 9000 pixels; at most 100000000 are decoded" in done.err


def test_a_style_is_wanted(gantk: Callable[..., Any], files: Path) -> None:
    done = gantk("stylize", "content.png")
    assert done.status == 2
    assert "--style is missing" in done.err

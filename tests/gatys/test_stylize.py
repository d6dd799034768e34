# SPDX-License-Identifier: Apache-2.0
"""Whole optimisations, with a small network of random weights: they go where they should, and end well."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from gantk.errors import GantkError, UsageError
from gantk.gatys import descent, pictures
from gantk.gatys.config import PRESETS, GatysConfig, parse_layers
from gantk.gatys.reporter import Reporter
from gantk.gatys.stylize import stylize
from gantk.stylize.schedule import Losses, preview_path, steps_at


@pytest.fixture
def config(content: Path, style: Path, vgg_file: Path) -> GatysConfig:
    return GatysConfig(
        str(content), (str(style),), size=48, steps=12, vgg=str(vgg_file), precision="fp32", threads=1
    )


class Ear(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[tuple[int, int, int, Losses]] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, done: int, total: int, longer: int, losses: Losses) -> None:
        self.steps.append((done, total, longer, losses))


def pixels(path: Path) -> Any:
    return np.asarray(Image.open(path).convert("RGB")).astype(float)


@pytest.mark.parametrize(
    ("init", "optimizer"),
    [
        ("content", "lbfgs"),
        ("noise", "adam"),
        ("blend", "lbfgs"),
        # Of each of these pairs, each half is above.
        pytest.param("content", "adam", marks=pytest.mark.slow),
        pytest.param("noise", "lbfgs", marks=pytest.mark.slow),
        pytest.param("blend", "adam", marks=pytest.mark.slow),
    ],
)
def test_the_loss_falls(config: GatysConfig, optimizer: str, init: str, tmp_path: Path) -> None:
    ear = Ear()
    lr = 0.05 if optimizer == "adam" else None
    told = replace(config, size=32, optimizer=optimizer, init=init, steps=25, lr=lr)
    result = stylize(told, tmp_path / "out.png", reporter=ear)
    first, last = ear.steps[0][3], ear.steps[-1][3]
    assert last.total < 0.5 * first.total
    assert last.style < first.style
    assert result.losses == last
    assert (result.size, result.steps, result.interrupted) == ((32, 24), 25, False)
    assert pixels(result.picture).shape == (24, 32, 3)
    assert pixels(result.picture).std() > 10


def test_the_strokes_come_from_the_style_and_the_shapes_from_the_content(
    config: GatysConfig, tmp_path: Path
) -> None:
    result = stylize(replace(config, steps=60), tmp_path / "out.png")
    found, content, style = (
        pixels(result.picture),
        pixels(Path(config.content)),
        pixels(Path(config.styles[0])),
    )
    red = style.mean((0, 1))
    assert np.abs(found.mean((0, 1)) - red).sum() < 0.6 * np.abs(content.mean((0, 1)) - red).sum()
    grey = [some.mean(2) for some in (found, content)]
    assert np.corrcoef(grey[0].ravel(), grey[1].ravel())[0, 1] > 0.4


def test_a_seed_chooses_the_picture(config: GatysConfig, tmp_path: Path) -> None:
    told = replace(config, init="noise", steps=4)
    made = [
        stylize(replace(told, seed=seed), tmp_path / f"{index}.png").picture.read_bytes()
        for index, seed in enumerate((1, 1, 2))
    ]
    assert made[0] == made[1]
    assert made[0] != made[2]


def test_it_goes_from_coarse_to_fine(config: GatysConfig, tmp_path: Path) -> None:
    ear = Ear()
    result = stylize(replace(config, size=128, steps=2), tmp_path / "out.png", reporter=ear)
    assert [longer for _, _, longer, _ in ear.steps] == [64, 64, 128, 128]
    assert [(done, total) for done, total, *_ in ear.steps] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert result.size == (128, 96)


def test_large_sizes_take_fewer_steps() -> None:
    assert [steps_at(200, size) for size in (64, 512, 513, 1024, 2048, 4096)] == [200, 200, 100, 100, 50, 25]
    assert steps_at(1, 4096) == 1


def test_a_large_picture_is_measured_in_tiles_with_the_same_result(
    config: GatysConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stylize(replace(config, steps=3), tmp_path / "whole.png")
    monkeypatch.setattr(descent, "WHOLE_PIXELS", 0)
    stylize(replace(config, steps=3), tmp_path / "tiles.png")
    assert np.abs(pixels(tmp_path / "whole.png") - pixels(tmp_path / "tiles.png")).max() <= 1


def test_short_weights_choose_the_layers_with_a_sentence(config: GatysConfig, tmp_path: Path) -> None:
    ear = Ear()
    result = stylize(replace(config, steps=1), tmp_path / "out.png", reporter=ear)
    assert [name for name, _ in result.style_layers] == ["relu1_1", "relu2_1", "relu3_1"]
    assert [name for name, _ in result.content_layers] == ["relu2_2"]
    assert ear.said == [
        "the weights end at relu3_1: style is taken from relu1_1, relu2_1, relu3_1, content from relu2_2"
    ]


def test_colours_are_kept_or_taken(config: GatysConfig, tmp_path: Path) -> None:
    content = pictures.to_tensor(pictures.read(config.content), (36, 48))
    chroma = []
    for keep in (True, False):
        result = stylize(replace(config, keep_colors=keep), tmp_path / f"{keep}.png")
        found = pictures.to_tensor(pictures.read(result.picture), (36, 48))
        # What differs once the luminance is that of the content.
        chroma.append(float((pictures.with_colours_of(content, found) - content).abs().mean()))
    assert chroma[0] < 0.03  # Where a colour would leave the range, it is clipped.
    assert chroma[1] > 0.05


def test_regions_take_their_own_styles(config: GatysConfig, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40), (20, 60, 220)).save(tmp_path / "blue.png")
    mask = np.zeros((36, 48), np.uint8)
    mask[:, :24] = 255
    Image.fromarray(mask).save(tmp_path / "left.png")
    Image.fromarray(255 - mask).save(tmp_path / "right.png")
    told = replace(
        config,
        styles=(config.styles[0], str(tmp_path / "blue.png")),
        masks=(str(tmp_path / "left.png"), str(tmp_path / "right.png")),
        content_weight=0.0,
        init="noise",
        steps=40,
    )
    found = pixels(stylize(told, tmp_path / "out.png").picture)
    left, right = found[:, :16].mean((0, 1)), found[:, 32:].mean((0, 1))
    assert left[0] > left[2] + 40
    assert right[2] > right[0] + 40


def test_previews_and_curves_are_written(config: GatysConfig, tmp_path: Path) -> None:
    out, curves = tmp_path / "made" / "out.png", tmp_path / "made" / "curves.png"
    stylize(replace(config, preview_every=5), out, curves=curves)
    assert pixels(preview_path(out)).shape == (36, 48, 3)
    assert pixels(curves).std() > 5
    assert sorted(path.name for path in out.parent.iterdir()) == ["curves.png", "out.png", "out.preview.png"]


def test_an_interruption_saves_what_there_is(config: GatysConfig, tmp_path: Path) -> None:
    class Hasty(Ear):
        def step(self, done: int, total: int, longer: int, losses: Losses) -> None:
            super().step(done, total, longer, losses)
            if done == 3:
                os.kill(os.getpid(), signal.SIGINT)

    ear = Hasty()
    result = stylize(replace(config, steps=500), tmp_path / "out.png", reporter=ear)
    assert (result.steps, result.interrupted) == (3, True)
    assert pixels(result.picture).shape == (36, 48, 3)


def test_a_step_that_explodes_is_undone(
    config: GatysConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ear = Ear()
    stylize(replace(config, size=32, lr=60.0, steps=40), tmp_path / "out.png", reporter=ear)
    assert ear.steps[-1][3].total < ear.steps[0][3].total


def test_bf16_comes_close(config: GatysConfig, tmp_path: Path) -> None:
    told, starts = replace(config, size=32, optimizer="adam"), []
    for precision in ("fp32", "bf16"):
        ear = Ear()
        stylize(replace(told, precision=precision), tmp_path / f"{precision}.png", reporter=ear)
        starts.append(ear.steps[0][3].total)
        assert ear.steps[-1][3].total < 0.7 * starts[-1]
    assert starts[1] == pytest.approx(starts[0], rel=0.01)


@pytest.mark.parametrize("best", ["fp32", "bf16"])
def test_auto_precision_is_the_best_here(
    best: str, config: GatysConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gantk.gatys.stylize.best_precision", lambda device: best)
    made, told = tmp_path / "auto.png", tmp_path / "told.png"
    small = replace(config, size=32, steps=3)
    assert stylize(replace(small, precision="auto"), made).precision == best
    stylize(replace(small, precision=best), told)
    assert made.read_bytes() == told.read_bytes()


@pytest.mark.parametrize("preset", PRESETS)
def test_presets_run(preset: str, config: GatysConfig, tmp_path: Path) -> None:
    told = replace(config, **{**PRESETS[preset], "size": 32, "steps": 30, "lr": 0.02, "scales": 1})
    ear = Ear()
    stylize(told, tmp_path / "out.png", reporter=ear)
    first, last = ear.steps[0][3], ear.steps[-1][3]
    assert last.total < first.total
    assert (last.style > 0, last.variation > 0) == (
        preset != "lesson-content-noise",
        preset == "lesson-blend",
    )


def save_kinds(folder: Path) -> dict[str, Path]:
    """The picture files that people have."""
    rng = np.random.default_rng(0)
    grey = Image.fromarray(rng.integers(0, 255, (40, 52), np.uint8))
    colour = Image.fromarray(rng.integers(0, 255, (40, 52, 3), np.uint8))
    deep = Image.fromarray(rng.integers(0, 65535, (40, 52)).astype(np.uint16))
    turned = Image.Exif()
    turned[0x0112] = 6
    made = {
        "grey": (grey, "grey.png", {}), "rgba": (colour.convert("RGBA"), "rgba.png", {}),
        "cmyk": (colour.convert("CMYK"), "cmyk.jpg", {}), "16 bit": (deep, "deep.png", {}),
        "turned": (colour, "turned.jpg", {"exif": turned}),
    }  # fmt: skip
    for picture, name, options in made.values():
        picture.save(folder / name, **options)
    return {kind: folder / name for kind, (_, name, _) in made.items()}


@pytest.mark.parametrize("kind", ["grey", "rgba", "cmyk", "16 bit", "turned"])
def test_pictures_of_every_kind_are_painted(kind: str, config: GatysConfig, tmp_path: Path) -> None:
    path = save_kinds(tmp_path)[kind]
    told = replace(config, content=str(path), styles=(str(path),), steps=1)
    result = stylize(told, tmp_path / "out.png")
    assert result.size == ((37, 48) if kind == "turned" else (48, 37))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"content": "nothing.png"}, "does not exist"),
        ({"styles": ("nothing.png",)}, "does not exist"),
        ({"content": "cut.jpg"}, "cannot be read"),
        ({"content": "narrow.png"}, "would have 48 x 1 pixels; the layer relu3_1 wants at least 4"),
        ({"styles": ("narrow.png",)}, "would have 48 x 1 pixels"),
        ({"styles": ("pixel.png",), "style_size": 16}, None),
        ({"style_layers": (("relu4_1", 1.0),)}, "lacks the layers"),
        ({"vgg": "nothing.pth"}, "nothing.pth"),
        ({"masks": ("black.png",)}, "black everywhere"),
    ],
)
def test_bad_input_is_named_and_nothing_is_written(
    change: dict[str, Any],
    words: str | None,
    config: GatysConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    noise = np.random.default_rng(0).integers(0, 255, (200, 300, 3), np.uint8)
    Image.fromarray(noise).save("whole.jpg")
    Path("cut.jpg").write_bytes(Path("whole.jpg").read_bytes()[:4000])
    Image.new("RGB", (5000, 1), "red").save("narrow.png")
    Image.new("RGB", (1, 1), "red").save("pixel.png")
    Image.new("L", (8, 8), 0).save("black.png")
    told = replace(config, **change, steps=1)
    if words is None:
        stylize(told, Path("out.png"))
        assert Path("out.png").exists()
        return
    with pytest.raises(GantkError, match=words):
        stylize(told, Path("out.png"))
    assert not list(tmp_path.glob("*out*"))


def test_files_that_exist_or_cannot_be_written_are_named_at_once(config: GatysConfig, tmp_path: Path) -> None:
    (tmp_path / "there.png").write_bytes(b"mine")
    with pytest.raises(GantkError, match="exists"):
        stylize(config, tmp_path / "there.png")
    with pytest.raises(GantkError, match="exists"):
        stylize(config, tmp_path / "new.png", curves=tmp_path / "there.png")
    assert (tmp_path / "there.png").read_bytes() == b"mine"
    with pytest.raises(GantkError, match="is a folder"):
        (tmp_path / "folder.png").mkdir()
        stylize(config, tmp_path / "folder.png", force=True)
    with pytest.raises(UsageError, match=r"ends in '.tga'"):
        stylize(config, tmp_path / "out.tga")
    with pytest.raises(UsageError, match=r"out` has no suffix; known are \.png"):
        stylize(config, tmp_path / "out")
    with pytest.raises(GantkError, match="cannot write"):
        stylize(config, tmp_path / "there.png" / "out.png")


def test_a_folder_without_permission_is_named_before_the_work(
    config: GatysConfig, unprivileged: Path
) -> None:
    unprivileged.chmod(0o500)
    with pytest.raises(GantkError, match="cannot write"):
        stylize(config, unprivileged / "out.png")


def test_a_loss_that_is_no_number_ends_it_without_a_file(config: GatysConfig, tmp_path: Path) -> None:
    huge = {name: tensor * 1e20 for name, tensor in load_file(str(config.vgg)).items()}
    save_file(huge, tmp_path / "huge.safetensors")
    with pytest.raises(GantkError, match=r"the loss is (inf|nan) at step 1"):
        stylize(replace(config, vgg=str(tmp_path / "huge.safetensors")), tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_full_memory_is_no_bug(
    config: GatysConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And more.")

    monkeypatch.setattr("gantk.gatys.descent.measure", full)
    with pytest.raises(GantkError, match="the GPU's memory is full: CUDA out of memory") as raised:
        stylize(config, tmp_path / "out.png")
    assert raised.value.hint == "a smaller --size"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"styles": ()}, "no style"),
        ({"size": 8}, "size is 8; 16 to 4096"),
        ({"steps": 0}, "steps is 0"),
        ({"init": "style"}, "init is 'style'; allowed are content, noise, blend"),
        ({"optimizer": "sgd"}, "allowed are lbfgs, adam"),
        ({"style_weight": float("nan")}, "style_weight is nan"),
        ({"content_weight": 0.0, "style_weight": 0.0}, "nothing to paint"),
        ({"shares": (1.0, 2.0)}, "2 times --style-share and 1 times --style"),
        ({"shares": (0.0,)}, "not all 0"),
        ({"masks": ("a", "b")}, "2 times --mask"),
    ],
)
def test_wrong_options_are_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        GatysConfig(**{"content": "c", "styles": ("s",), **fields})


def test_layers_are_read() -> None:
    assert parse_layers("relu1_1:0.5, relu2_1", "--style-layers") == (("relu1_1", 0.5), ("relu2_1", 1.0))
    for text, words in (
        ("relu9_1", "it has relu1_1, relu1_2"),
        ("relu1_1:x", "each layer comes once, with a weight"),
        ("relu1_1,relu1_1", "each layer comes once"),
        ("relu1_1:-1", "a weight from 0"),
        ("relu1_1:0", "names no layer that weighs"),
        ("", "names no layer"),
    ):
        with pytest.raises(UsageError, match=words):
            parse_layers(text, "--style-layers")

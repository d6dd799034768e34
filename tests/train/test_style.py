# SPDX-License-Identifier: Apache-2.0
"""Style networks learn, leave a run that tells what happened, and refuse what they cannot use."""

from __future__ import annotations

import inspect
import json
import re
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from listener import Listener
from PIL import Image
from style_helpers import write_photos, write_style, write_vgg

from gantk import checkpoint
from gantk.errors import GantkError, UsageError
from gantk.models import vgg
from gantk.train import sitting
from gantk.train.adain import AdainConfig, AdainTraining
from gantk.train.config import TrainConfig
from gantk.train.style import StyleConfig, StyleTraining
from gantk.train.styles import name_styles

RED, BLUE, BLACK, WHITE = (220, 30, 30), (20, 40, 220), (0, 0, 0), (255, 255, 255)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/, paintings/ and vgg.safetensors."""
    folder = tmp_path_factory.mktemp("style")
    write_photos(folder / "photos")
    write_style(folder / "paintings" / "flag.png", (RED, BLUE), 8)
    write_style(folder / "paintings" / "zebra.png", (BLACK, WHITE), 3)
    write_vgg(folder / "vgg.safetensors")
    return folder


def common(files: Path, run: Path) -> dict[str, Any]:
    return {
        "data": str(files / "photos"), "out": str(run), "vgg": str(files / "vgg.safetensors"),
        "size": 64, "batch": 2, "steps": 6, "threads": 1, "precision": "fp32", "device": "cpu",
        "log_every": 2, "sample_every": 1,
    }  # fmt: skip


def style_config(files: Path, run: Path, **changes: Any) -> StyleConfig:
    styles = tuple(str(files / "paintings" / name) for name in ("flag.png", "zebra.png"))
    return StyleConfig(**{**common(files, run), "styles": styles, "width": 2, "blocks": 1, **changes})


def adain_config(files: Path, run: Path, **changes: Any) -> AdainConfig:
    return AdainConfig(**{**common(files, run), "styles": str(files / "paintings"), **changes})


def lines(run: Path, event: str) -> list[dict[str, Any]]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record for record in records if record["event"] == event]


@pytest.mark.curves
def test_a_style_run_holds_all_that_is_promised(files: Path, tmp_path: Path) -> None:
    run, listener = tmp_path / "run", Listener()
    result = sitting.begin(StyleTraining, style_config(files, run), reporter=listener)

    assert (result.step, result.epoch, result.interrupted) == (6, 2, False)
    assert [line["step"] for line in lines(run, "step")] == [2, 3, 5, 6]
    for line in lines(run, "step"):
        total = line["content"] + 2 * line["style"] + 0.1 * line["variation"]
        assert line["loss"] == pytest.approx(total, abs=1e-5)
    assert listener.sheets == ["step-0000003.png", "step-0000006.png"]
    with Image.open(run / "samples" / "step-0000006.png") as sheet:
        pixels = np.asarray(sheet)
    # A column of contents and one a style; a row of styles and one a content; all of 64 pixels on two of black.
    assert pixels.shape == (5 * 66 + 2, 3 * 66 + 2, 3)
    assert (pixels[2:66, 2:66] == 255).all()
    assert (pixels[20, 70:130] == RED).all(1).any() and (pixels[20, 70:130] == BLUE).all(1).any()
    with Image.open(run / "losses.png") as curves:
        assert len(set(np.asarray(curves.convert("L")).ravel().tolist())) > 20
    record = json.loads((run / "run.json").read_text())
    assert record["kind"] == "style"
    assert record["config"]["style_layers"] == ["relu1_2", "relu2_2"]
    assert [*record["styles"]] == ["flag", "zebra"]
    assert not list(run.rglob("*.partial"))

    loaded = checkpoint.load_generator(run)
    assert loaded.config == {"styles": ["flag", "zebra"], "width": 2, "blocks": 1}
    picture, weights = torch.rand(1, 3, 33, 46), torch.tensor([[0.5, 0.5]])
    assert loaded.module(picture, weights).shape == picture.shape


def test_an_adain_run_holds_all_that_is_promised(files: Path, tmp_path: Path) -> None:
    run, listener = tmp_path / "run", Listener()
    sitting.begin(AdainTraining, adain_config(files, run), reporter=listener)
    assert "end at relu2_2: styles are taken from relu2_1 on, not from relu4_1" in listener.said[0]
    for line in lines(run, "step"):
        assert line["loss"] == pytest.approx(line["content"] + 3 * line["style"], abs=1e-5)
    assert listener.sheets == ["step-0000003.png", "step-0000006.png"]
    with Image.open(run / "samples" / "step-0000006.png") as sheet:
        assert sheet.size == (3 * 66 + 2, 5 * 66 + 2)
    record = json.loads((run / "run.json").read_text())
    assert (record["kind"], record["styles"]["pictures"]) == ("adain", 2)

    loaded = checkpoint.load_generator(run)
    assert loaded.config == {"layer": "relu2_1"}
    encoder = vgg.load_vgg19(files / "vgg.safetensors", "relu2_1")
    picture = torch.rand(1, 3, 24, 24)
    own = loaded.module.encoder(picture)["relu2_1"]  # type: ignore[union-attr, operator]
    # The checkpoint has all of VGG-19, scaled: it is all there is to have.
    factor = own / encoder(picture)["relu2_1"]
    found = factor[own > 0].unique()
    assert len(found) == 1 and float(found.log2()) % 1 == 0


def test_a_style_network_takes_on_its_colours(files: Path, tmp_path: Path) -> None:
    """With the first layer for a style, colours are what there is to learn: red and blue, and no green."""
    run = tmp_path / "run"
    flag = (str(files / "paintings" / "flag.png"),)
    sitting.begin(
        StyleTraining,
        style_config(files, run, styles=flag, style_layers=("relu1_1",), content_layer="relu1_1",
                     content_weight=0.05, width=4, batch=1, steps=100, lr=5e-3, ema=0.9, sample_every=100),
    )  # fmt: skip
    losses = [line["style"] for line in lines(run, "step")]
    # A step is of one picture, and where it leads depends on how the processor rounds.
    assert statistics.median(losses[-10:]) < 0.3 * losses[0]
    painted = checkpoint.load_generator(run).module(torch.rand(1, 3, 64, 64)).mean((0, 2, 3))
    mean = torch.tensor([RED, BLUE]).float().mean(0) / 255
    assert (painted - mean).abs().max() < 0.15


def test_only_the_styles_drawn_are_learned(files: Path, tmp_path: Path) -> None:
    """After one step of one picture, one style's scales have moved and the other's have not."""
    run = tmp_path / "run"
    sitting.begin(StyleTraining, style_config(files, run, batch=1, steps=1, ema=0.0))
    # Scales begin at one, those at the end of a residual block at zero, which what is before them cannot feel yet.
    moved = [
        (tensor != float(re.fullmatch(r"blocks\.\d\.norm\.scale", name) is None)).any(1).tolist()
        for name, tensor in checkpoint.read_newest(run)[0].part("generator").items()
        if name.endswith("norm.scale") and ".layer." not in name
    ]
    assert sorted(moved[0]) == [False, True]
    assert all(rows == moved[0] for rows in moved)
    # Adam's first step is as long as the learning rate, whose warm-up takes 40 steps.
    scale = checkpoint.read_newest(run)[0].tensors["generator.shrink.0.norm.scale"]
    assert float((scale - 1).abs().max()) == pytest.approx(1e-3 / 40, rel=0.01)


def test_a_decoder_learns_and_its_encoder_does_not(files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    sitting.begin(
        AdainTraining, adain_config(files, run, layer="relu1_2", batch=1, steps=26, lr=3e-3, sample_every=100)
    )
    first, last = lines(run, "step")[0], lines(run, "step")[-1]
    assert last["loss"] < 0.7 * first["loss"]
    saved = checkpoint.read_newest(run)[0]
    for name, tensor in saved.part("generator").items():
        assert torch.equal(tensor, saved.part("ema")[name]) == name.startswith("encoder.")


def test_one_seed_gives_one_result_and_another_another(files: Path, tmp_path: Path) -> None:
    def weights(name: str, seed: int) -> torch.Tensor:
        sitting.begin(StyleTraining, style_config(files, tmp_path / name, seed=seed, steps=2))
        return checkpoint.read_newest(tmp_path / name)[0].tensors["generator.paint.conv.weight"]

    first = weights("a", 0)
    assert torch.equal(first, weights("b", 0))
    assert not torch.equal(first, weights("c", 1))


@pytest.mark.parametrize("kind", ["style", "adain"])
def test_bf16_trains_to_nearly_the_same(kind: str, files: Path, tmp_path: Path) -> None:
    shortest = {"batch": 1, "steps": 1, "log_every": 1, "sample_every": 100}

    def loss(precision: str) -> float:
        run = tmp_path / precision
        if kind == "style":
            sitting.begin(StyleTraining, style_config(files, run, precision=precision, **shortest))
        else:
            sitting.begin(AdainTraining, adain_config(files, run, precision=precision, **shortest))
        assert checkpoint.read_newest(run)[0].tensors["optimizer_generator.0.exp_avg"].dtype == torch.float32
        return float(lines(run, "step")[0]["loss"])

    exact, half = loss("fp32"), loss("bf16")
    assert half == pytest.approx(exact, rel=0.05)
    assert half != exact


@pytest.mark.parametrize("kind", ["dcgan", "style", "adain"])
def test_the_command_has_the_defaults_of_the_library(kind: str) -> None:
    from dataclasses import fields

    from gantk.cli.train import app

    (command,) = [command for command in app.registered_commands if command.callback.__name__ == kind]  # type: ignore[union-attr]
    configs = {"dcgan": TrainConfig, "style": StyleConfig, "adain": AdainConfig}
    config = {field.name: field.default for field in fields(configs[kind])}
    given = inspect.signature(command.callback).parameters  # type: ignore[arg-type]
    shared = [name for name in given if name in config and name not in ("data", "out", "styles", "epochs")]
    assert len(shared) > 15
    assert {name: given[name].default for name in shared} == {name: config[name] for name in shared}


def test_long_epochs_are_shown_within() -> None:
    config = StyleConfig(data="a", out="b", styles=("a.png",))
    assert config.show_every(20_000, 40_000) == 2000
    assert config.show_every(50, 2000) == 50
    assert StyleConfig(data="a", out="b", styles=("a.png",), sample_every=3).show_every(50, 2000) == 150


def test_names_of_styles() -> None:
    assert name_styles(["x/wave.png", "y/wave.jpg", "b.tar.gz", ".hidden"]) == (
        "wave", "wave-2", "b.tar", ".hidden",
    )  # fmt: skip
    # No JSON library but Python's takes half of a pair of surrogates.
    assert name_styles(["not\udcffutf-8.png", "not\udcfeutf-8.png"]) == ("not\ufffdutf-8", "not\ufffdutf-8-2")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"styles": ()}, "0 styles are given; 1 to 256"),
        ({"styles": tuple(f"{n}.png" for n in range(257))}, "257 styles are given"),
        ({"size": 32}, "size is 32; 64 to 2048"),
        ({"style_size": 8}, "style_size is 8; 16 to 4096"),
        ({"style_weight": -1.0}, "style_weight is -1.0"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"width": 0}, "width is 0"),
        ({"batch": 0}, "batch is 0; 1 to"),
    ],
)
def test_what_is_not_allowed(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        StyleConfig(**{"data": "a", "out": "b", "styles": ("a.png",), **changes})


def test_what_is_not_allowed_of_adain() -> None:
    with pytest.raises(UsageError, match="no styles are given"):
        AdainConfig(data="a", out="b")
    with pytest.raises(UsageError, match="no layer 'relu9_1'"):
        AdainConfig(data="a", out="b", styles="c", layer="relu9_1")


def test_a_layer_beyond_the_weights_leaves_no_run(files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    with pytest.raises(GantkError, match=r"lacks the layers relu3_1 of VGG-19; its last is relu2_2"):
        sitting.begin(AdainTraining, adain_config(files, run, layer="relu3_1"))
    with pytest.raises(GantkError, match=r"lacks the layers relu3_1, relu3_2, relu3_3"):
        sitting.begin(StyleTraining, style_config(files, run, content_layer="relu3_3"))
    assert not run.exists()


def test_a_run_is_resumed_by_its_own_kind_with_its_own_styles(files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    flag = write_style(tmp_path / "flag.png", (RED, BLUE), 8)
    sitting.begin(StyleTraining, style_config(files, run, styles=(str(flag),), steps=2))
    with pytest.raises(GantkError, match="is a run of `gantk train style`, not of `gantk train adain`"):
        sitting.resume(AdainTraining, run)
    with pytest.raises(UsageError, match=r"has style_weight 2\.0 and cannot go on with 3\.0"):
        sitting.resume(StyleTraining, run, {"style_weight": 3.0})
    write_style(flag, (RED, WHITE), 8)
    with pytest.raises(GantkError, match="the styles are not those that the run began with"):
        sitting.resume(StyleTraining, run, {"steps": 4})
    write_style(flag, (RED, BLUE), 8)
    assert sitting.resume(StyleTraining, run, {"steps": 4}).step == 4


def test_styles_may_have_moved_but_not_changed_places(files: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    styles = [
        str(write_style(tmp_path / f"{name}.png", (RED, second), 8))
        for name, second in (("a", BLUE), ("b", WHITE))
    ]
    sitting.begin(StyleTraining, style_config(files, run, styles=tuple(styles), steps=2))
    (tmp_path / "moved").mkdir()
    moved = [str(Path(style).rename(tmp_path / "moved" / Path(style).name)) for style in styles]
    with pytest.raises(GantkError, match=r"has styles `.*a\.png`, which does not exist from here") as told:
        sitting.resume(StyleTraining, run, {"steps": 3})
    assert told.value.hint is not None and told.value.hint.startswith("--style ")
    with pytest.raises(GantkError, match="the styles are not those that the run began with"):
        sitting.resume(StyleTraining, run, {"steps": 3, "styles": tuple(reversed(moved))})
    assert sitting.resume(StyleTraining, run, {"steps": 3, "styles": tuple(moved)}).step == 3

# SPDX-License-Identifier: Apache-2.0
"""The bundle of a step: what is in it, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load
from safetensors.torch import save_file

import gantk
from bundle_engines import make_engine, usual_engine
from fake_half import FakeHalfRunner
from gantk.bench.subject import describe, make_cases
from gantk.bundle import STEP_FAMILY, Bundle, Writer
from gantk.cli.main import main
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export import verify
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.engines.probe import with_probe
from gantk.export.engines.profiles import make_profiles
from gantk.export.gatys import graphs, pipeline
from gantk.export.gatys.chain import Chain, StepConfig
from gantk.export.gatys.draft import StepGraph
from gantk.export.gatys.pipeline import export_step
from gantk.export.gatys.reference import compute_gradient, to_arrays
from gantk.export.opset import BF16_OPSET
from gantk.export.reference import Feeds, Outputs
from gantk.models.vgg import load_vgg19
from gantk.runtime.following import follows
from gantk.runtime.parity import compare, span_of, threshold_of
from gantk.runtime.probe import Probe, probe_of
from gantk.runtime.products import PRODUCTS
from step_networks import CONTENT, LAYERS, make_weights


def test_what_a_bundle_says(bundle: Path) -> None:
    manifest = Bundle.read(bundle).manifest
    assert manifest.family == "gatys-step"
    assert manifest.config.pop("growth") > 0
    assert manifest.config == {
        "style_layers": list(LAYERS), "content_layer": CONTENT, "pooling": "max", "variation": "l1",
        "epsilon": 1e-8, "smallest_size": 4,
    }  # fmt: skip
    assert [variant.form for variant in manifest.variants] == ["plain", "adam", "targets"]
    assert [spec.name for spec in manifest.outputs] == [
        "gradient",
        "content_loss",
        "style_loss",
        "variation_loss",
    ]
    plain, adam, targets = manifest.variants
    assert plain.interface is None
    assert adam.interface is not None and targets.interface is not None
    given = {
        spec.name.removeprefix("next_") for spec in adam.interface.outputs if spec.name.startswith("next_")
    }
    assert given == {spec.name for spec in adam.interface.inputs} - {spec.name for spec in manifest.inputs} - {
        "learning_rate", "betas", "epsilon"
    } | {"picture"}  # fmt: skip
    assert {spec.name for spec in targets.interface.outputs} <= {spec.name for spec in manifest.inputs}
    for variant in manifest.variants:
        assert {parity.backend for parity in variant.parity} == set(verify.working_backends("fp32"))
        assert all(
            parity.passed and parity.psnr_db is not None and parity.psnr_db > 80 for parity in variant.parity
        )
        assert variant.parity[0].sizes == ((64, 80), (37, 51), (95, 48))


def test_random_features_have_the_size_that_the_picture_gives_them(
    bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert CONTENT.startswith("relu2_")  # Behind one pooling.
    assert main(["run", str(bundle), "--shape", "picture=1x3x24x37", "--json", "-"]) == 0
    shapes = {tensor["name"]: tensor["shape"] for tensor in json.loads(capsys.readouterr().out)["tensors"]}
    assert shapes[f"content.{CONTENT}"][2:] == [12, 18]
    subject = describe(bundle)
    (case,) = make_cases(subject.inputs, None, [("picture", (1, 3, 24, 37))], subject.following)
    assert case.shapes[f"content.{CONTENT}"][2:] == (12, 18)


def test_the_probe_holds_what_pytorch_says(bundle: Path) -> None:
    opened = Bundle.read(bundle)
    assert opened.manifest.probe is not None
    probe = load(opened.read_file(opened.manifest.probe))
    with gantk.open(bundle) as runner:
        made = runner.run({spec.name: probe[f"input.{spec.name}"] for spec in runner.inputs})
    for name, array in made.items():
        wanted = probe[f"output.{name}"]
        np.testing.assert_allclose(array, wanted, rtol=1e-4, atol=1e-4 * np.abs(wanted).max())


def test_engines_of_every_form_can_be_verified(bundle: Path) -> None:
    opened = Bundle.read(bundle)
    for variant in opened.manifest.variants:
        assert probe_of(opened, usual_engine(opened, variant))
        with gantk.open(bundle, form=variant.form) as runner:
            probe = load(opened.read_file(opened.manifest.probe))
            made = runner.run({spec.name: probe[f"input.{spec.name}"] for spec in runner.inputs})
        for spec in opened.manifest.interface(variant).outputs:
            wanted = probe[f"output.{spec.name}"]
            span = span_of(wanted, spec.range)
            assert (
                compare([made[spec.name]], [wanted], span).against(threshold_of("fp32", STEP_FAMILY), span)
                is None
            )


@pytest.mark.parametrize("form", ["plain", "adam", "targets"])
def test_an_engine_of_a_larger_size_alone_has_a_probe(bundle: Path, tmp_path: Path, form: str) -> None:
    shutil.copytree(bundle, tmp_path / "x.gantk")
    with Writer(tmp_path / "x.gantk", force=True) as writer:
        opened = Bundle.read(tmp_path / "x.gantk")
        manifest, variant = opened.manifest, opened.find("fp32", form)
        shape = ["picture=1x3x97x130"]
        profiles = make_profiles(manifest.interface(variant), follows(manifest), shape, shape, shape)
        engine = make_engine(variant, {}, profiles=profiles, parity=())
        assert probe_of(opened, engine) is None
        made = with_probe(writer, manifest, engine, Sources.of(opened), print)
        probe = probe_of(writer.so_far(manifest), made)
    assert probe is not None
    assert probe.inputs["picture"].shape == (1, 3, 97, 130)
    if form != "targets":
        # Each loss is there, of the size that the bundle's own probe gives it.
        known = Probe.read(opened, manifest.probe)
        for name in ("content_loss", "style_loss", "variation_loss"):
            assert 0.01 < probe.outputs[name] / known.outputs[name] < 100


def test_each_loss_pulls_in_the_trials(bundle: Path) -> None:
    opened = Bundle.read(bundle)
    assert opened.manifest.probe is not None
    probe = load(opened.read_file(opened.manifest.probe))
    feeds = {spec.name: probe[f"input.{spec.name}"] for spec in opened.manifest.inputs}
    with gantk.open(bundle) as runner:
        for weight in ("content_weight", "style_weight", "variation_weight"):
            others = {name: np.zeros_like(feeds[name]) for name in feeds if name.endswith("_weight")}
            gradient = runner.run({**feeds, **others, weight: feeds[weight]})["gradient"]
            assert np.abs(gradient).max() == pytest.approx(1, rel=1e-3)


def test_a_graph_that_is_wrong_is_refused(
    vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = graphs.make_gradient

    def wrong(chain: Chain, config: StepConfig, precision: str) -> StepGraph:
        return right(Chain(chain.layers, chain.mean, chain.std * np.float32(1.02)), config, precision)

    forms = (replace(pipeline._FORMS[0], make=wrong), *pipeline._FORMS[1:])
    monkeypatch.setattr(pipeline, "_FORMS", forms)
    with pytest.raises(
        GantkError, match=r"the fp32 step \(plain\) does not compute on .* what torch float32 does"
    ):
        export_step(vgg_file, tmp_path / "x.gantk", style_layers=("relu1_1",), content_layer="relu1_1")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def export_in_bf16(
    vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str, str], Bundle]:
    """Export a gradient in bf16 on two backends that do as told."""
    config = StepConfig(("relu1_1",), "relu1_1")
    network = load_vgg19(vgg_file, config.last, config.pooling)

    def gradient(feed: Feeds) -> Outputs:
        return to_arrays(compute_gradient(network, config, {n: torch.from_numpy(a) for n, a in feed.items()}))

    def export(first: str, second: str) -> Bundle:
        how = {"onnxruntime": first, "openvino": second}
        monkeypatch.setattr(verify, "working_backends", lambda precision: tuple(how))
        monkeypatch.setattr(
            verify, "open_model", lambda model, name: FakeHalfRunner(gradient, name, how[name])
        )
        monkeypatch.setattr(pipeline, "_FORMS", pipeline._FORMS[:1])
        layers = {"style_layers": config.style_layers, "content_layer": config.content_layer}
        return export_step(vgg_file, tmp_path / "x.gantk", precisions=("bf16",), **layers)

    return export


@pytest.mark.parametrize("first", ["right", "unloadable"])
@pytest.mark.parametrize("second", ["right", "unloadable"])
def test_a_backend_that_cannot_load_bf16_is_passed_by(
    export_in_bf16: Callable[[str, str], Bundle], first: str, second: str
) -> None:
    (variant,) = export_in_bf16(first, second).manifest.variants
    assert variant.opset == BF16_OPSET
    for backend, how in (("onnxruntime", first), ("openvino", second)):
        failed = variant.failed_on(backend, "cpu")
        assert (failed is not None) == (how == "unloadable")
        assert failed is None or failed.reason == "it cannot load `x`: no kernel of ConvTranspose in bf16"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("wrong", "right", "on onnxruntime .*dB PSNR"),
        ("failing", "right", "on onnxruntime .*cannot run"),
        ("unloadable", "wrong", "on openvino .*dB PSNR"),
    ],
)
def test_the_first_backend_that_loads_a_bf16_step_decides(
    export_in_bf16: Callable[[str, str], Bundle], first: str, second: str, reason: str
) -> None:
    with pytest.raises(GantkError, match=rf"the bf16 step \(plain\) does not compute {reason}"):
        export_in_bf16(first, second)


def test_layers_that_the_weights_lack(vgg_file: Path, tmp_path: Path) -> None:
    with pytest.raises(GantkError, match=r"lacks the layers relu3_2, .*; its last is relu3_1") as caught:
        export_step(vgg_file, tmp_path / "x.gantk", style_layers=("relu1_1",), content_layer="relu4_2")
    assert caught.value.hint is not None
    assert "up to relu3_1" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_by_default_the_layers_are_those_of_stylize(
    vgg_file: Path, tmp_path: Path, one_backend: None
) -> None:
    made = export_step(vgg_file, tmp_path / "x.gantk", pooling="average", variation="isotropic")
    config = made.manifest.config
    assert (config["style_layers"], config["content_layer"]) == (["relu1_1", "relu2_1", "relu3_1"], "relu2_2")
    assert (config["pooling"], config["variation"]) == ("average", "isotropic")
    # Another one in its place, and no longer the old one's files.
    again = export_step(
        vgg_file, tmp_path / "x.gantk", style_layers=("relu1_1",), content_layer="relu1_1", force=True
    )
    assert again.manifest.config["smallest_size"] == 1
    with pytest.raises(GantkError, match="exists"):
        export_step(vgg_file, tmp_path / "x.gantk")


def changed(change: Any, folder: Path) -> Path:
    weights = {name: change(tensor) for name, tensor in make_weights().items()}
    save_file(weights, folder / "changed.safetensors")
    return folder / "changed.safetensors"


def test_weights_that_see_nothing(tmp_path: Path) -> None:
    dead = changed(torch.zeros_like, tmp_path)
    with pytest.raises(GantkError, match="no gradient of the content loss") as caught:
        export_step(dead, tmp_path / "x.gantk", style_layers=("relu1_1",), content_layer="relu1_1")
    assert caught.value.hint is not None
    assert "--vgg FILE" in caught.value.hint


def test_weights_that_are_not_numbers(tmp_path: Path) -> None:
    broken = changed(lambda tensor: tensor * torch.nan, tmp_path)
    with pytest.raises(GantkError, match="finite|NaN"):
        export_step(broken, tmp_path / "x.gantk", style_layers=("relu1_1",), content_layer="relu1_1")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precisions": ("fp16",)}, "asked for are 'fp16'; a step is exported in fp32, bf16"),
        ({"precisions": ()}, "asked for are none"),
        ({"style_layers": ("relu1_1", "relu1_1"), "content_layer": "relu1_1"}, "different ones"),
        ({"style_layers": ("relu9_1",), "content_layer": "relu1_1"}, "VGG-19 has no layer 'relu9_1'"),
        ({"pooling": "median"}, "'median'.*max, average"),
        ({"variation": "l3"}, "'l3'.*l1, l2, isotropic"),
    ],
)
def test_options_that_are_wrong(
    vgg_file: Path, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        export_step(vgg_file, tmp_path / "x.gantk", **options)
    assert list(tmp_path.iterdir()) == []


def test_without_a_backend(vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "working_backends", lambda precision: ())
    with pytest.raises(BackendMissingError, match="no backend that works here computes fp32"):
        export_step(vgg_file, tmp_path / "x.gantk")


@pytest.mark.parametrize(
    ("shape", "says"),
    [
        ("pictures=1x3x64x64", "is of no input; the inputs are picture, .*, learning_rate, betas, epsilon"),
        ("mean=1x3x64", "'mean=1x3x64' does not fit mean"),
    ],
)
def test_shapes_that_do_not_suit_are_refused_before_a_graph_is_made(
    vgg_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: str, says: str
) -> None:
    if PRODUCTS["tensorrt-rtx"].version is None:
        pytest.skip("wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'")
    monkeypatch.delattr(pipeline, "_make")
    wanted = EngineRequest(("tensorrt-rtx",), usual=(shape,))
    with pytest.raises(UsageError, match=says):
        export_step(
            vgg_file, tmp_path / "x.gantk", style_layers=LAYERS, content_layer=CONTENT, engines=wanted
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_engines_of_a_step(vgg_file: Path, tmp_path: Path) -> None:
    """All three forms, whose content features have sides that follow from the pictures'."""
    if PRODUCTS["tensorrt-rtx"].version is None:
        pytest.skip("wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'")
    wanted = EngineRequest(("tensorrt-rtx",), options=BuildOptions(("sm_89",)))
    made = export_step(
        vgg_file, tmp_path / "x.gantk", style_layers=LAYERS, content_layer=CONTENT, engines=wanted
    )
    assert [engine.form for engine in made.manifest.engines] == ["plain", "adam", "targets"]
    gradient = made.manifest.engines[0]
    (profile,) = gradient.profiles
    assert profile["picture"].opt == (1, 3, 512, 512)
    assert profile[f"content.{CONTENT}"].opt == (1, 128, 256, 256)
    assert {layer.precision for layer in gradient.heavy_layers} == {"fp32"}
    assert any(layer.name == "style/relu1_1/GramMatrix" for layer in gradient.heavy_layers)

# SPDX-License-Identifier: Apache-2.0
"""From a checkpoint to a bundle, whole or not at all."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load
from torch import nn

import gantk
from gantk import checkpoint, models
from gantk.bundle import WHOLLY_NATIVE, Bundle, Calibrated, Parity
from gantk.cli.main import main
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export import export, int8, rewritten, speed, verify
from gantk.export.calibration import Calibration
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.reference import BATCHES, Feeds
from gantk.runtime.products import PRODUCTS

pytestmark = pytest.mark.usefixtures("traced_once")  # `test_onnx` traces the same network twice.


@pytest.fixture(autouse=True)
def _hardly_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is faster matters to no test here that does not say it itself."""
    monkeypatch.setattr(speed, "BLOCK_S", 0.001)


def tree(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_bundle_holds_what_its_manifest_says(source: Path, generator: nn.Module, tmp_path: Path) -> None:
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32", "fp16", "bf16"), rewrites=False)
    read = Bundle.read(bundle.root)
    assert read.manifest == bundle.manifest
    assert [variant.precision for variant in read.manifest.variants] == ["fp32", "fp16", "bf16"]
    for ref in read.manifest.files:
        assert len(read.read_file(ref)) == ref.size_bytes
    assert read.manifest.tools["gantk"] == gantk.__version__
    half = read.find("fp16").file.size_bytes / read.find("fp32").file.size_bytes
    assert 0.4 < half < 0.7


def test_the_probe_is_what_pytorch_makes(source: Path, generator: nn.Module, tmp_path: Path) -> None:
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32",), rewrites=False)
    assert bundle.manifest.probe is not None
    probe = load(bundle.read_file(bundle.manifest.probe))
    with gantk.open(bundle.root) as runner:
        outputs = runner.run({"latent": probe["input.latent"]})
    np.testing.assert_allclose(outputs["picture"], probe["output.picture"], atol=1e-4)


def test_a_bundle_can_be_exported_again(source: Path, tmp_path: Path) -> None:
    first = export(source, tmp_path / "a.gantk", precisions=("fp32",), rewrites=False)
    second = export(first.root, tmp_path / "b.gantk", precisions=("fp32",), rewrites=False)
    assert second.find("fp32").file == first.find("fp32").file
    weights = checkpoint.load_generator(second.root).module.state_dict()
    for name, tensor in checkpoint.load_generator(source).module.state_dict().items():
        assert bool((weights[name] == tensor).all())


def test_pixels_come_out_where_asked_for(source: Path, tmp_path: Path) -> None:
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32", "fp16"), pictures=True, rewrites=False)
    latent = np.random.default_rng(0).standard_normal((2, 16), np.float32)
    with gantk.open(bundle.root) as full, gantk.open(bundle.root, precision="fp16") as half:
        a, b = full.run({"latent": latent})["picture"], half.run({"latent": latent})["picture"]
    assert (a.dtype, a.shape) == (np.uint8, (2, 28, 28, 1))
    assert np.abs(a.astype(int) - b.astype(int)).max() <= 3


@pytest.fixture
def gains(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """What each backend is pretended to gain by each rewrite; the files themselves are real."""
    table: dict[str, float] = {}

    def speedup(plain: bytes, other: bytes, backend: str, inputs: object) -> float:
        return table[backend]

    monkeypatch.setattr(rewritten, "speedup", speedup)
    return table


def test_the_rewritten_form_is_kept_for_the_backends_on_which_it_is_faster(
    source: Path, tmp_path: Path, gains: dict[str, float]
) -> None:
    default, *others = verify.working_backends("fp32")
    gains.update({default: 1.5, **dict.fromkeys(others, 0.5)})
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32",))
    plain, other = bundle.find("fp32"), bundle.find("fp32", "rewritten")
    assert other.fastest_on == (default,)
    assert plain.fastest_on == tuple(others)
    assert other.rewrites == ("narrow-transposed-to-subpixel", "transposed-to-subpixel", "narrow-to-phases")
    assert other.gains == {default: dict.fromkeys(other.rewrites, 1.5)}
    latent = np.random.default_rng(0).standard_normal((2, 16), np.float32)
    with gantk.open(bundle.root, default) as chosen, gantk.open(bundle.root, default, form="plain") as runner:
        a, b = chosen.run({"latent": latent})["picture"], runner.run({"latent": latent})["picture"]
    np.testing.assert_allclose(a, b, atol=1e-4)


def test_of_alternatives_the_faster_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms are told apart by their names alone: nothing is exported here."""
    factors = {"a": 1.2, "b": 1.4, "c": 1.01, "d": 0.7, "e": 1.1}
    monkeypatch.setattr(rewritten, "STEPS", (("a", "b"), ("c", "d"), ("e",)))
    asked: list[tuple[str, ...]] = []

    def gain(self: rewritten._Trials, before: tuple[str, ...], names: tuple[str, ...], backend: str) -> float:
        assert names in ((*before, names[-1]), (WHOLLY_NATIVE,))
        asked.append(names)
        return factors.get(names[-1], 0)

    monkeypatch.setattr(rewritten._Trials, "_gain", gain)
    trials = rewritten._Trials(None, None, (), print, {})  # type: ignore[arg-type]
    choice = trials.choose("onnxruntime")
    assert choice.gains == {"b": 1.4, "e": 1.1}
    assert choice.fastest == choice.portable == ("b", "e")
    assert asked == [("a",), ("b",), ("b", "c"), ("b", "d"), ("b", "e"), (WHOLLY_NATIVE,)]


def test_alternatives_are_measured_again_after_a_layout_has_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = {
        ("a",): 1.5,
        ("b",): 1.2,
        ("a", "c"): 1.3,
        ("a", "c", "l"): 2.0,
        ("b", "c", "l"): 1.1,
        ("b", "d", "l"): 0.9,
        ("x", "c", "l"): 1.02,
    }
    monkeypatch.setattr(rewritten, "STEPS", (("a", "b", "x"), ("c", "d"), ("e", "l"), ("c",)))
    monkeypatch.setattr(rewritten, "LAYOUTS", frozenset({"l"}))
    asked: list[tuple[str, ...]] = []

    def gain(self: rewritten._Trials, before: tuple[str, ...], names: tuple[str, ...], backend: str) -> float:
        assert len(set(names) - set(before)) == 1
        asked.append(names)
        return factors.get(names, 0)

    monkeypatch.setattr(rewritten._Trials, "_gain", gain)
    trials = rewritten._Trials(None, None, (), print, {})  # type: ignore[arg-type]
    choice = trials.choose("onnxruntime")
    assert asked[-4:-1] == [("b", "c", "l"), ("x", "c", "l"), ("b", "d", "l")]
    assert choice.fastest == ("b", "c", "l")
    assert choice.gains == {"b": 1.65, "c": 1.3, "l": 2.0}


def test_a_rewritten_form_that_fails_the_gate_is_left_out_and_said_so(
    source: Path, tmp_path: Path, gains: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    gains.update(dict.fromkeys(verify.working_backends("fp32"), 1.5))
    honest = rewritten.rewrite

    def wrong(graph: ir.Model, names: tuple[str, ...]) -> ir.Model | None:
        other = honest(graph, names)
        for value in () if other is None else other.graph.initializers.values():
            if value.name is not None and value.name.endswith("weight") and value.const_value is not None:
                value.const_value = ir.Tensor(-value.const_value.numpy(), name=value.name)
        return other

    monkeypatch.setattr(rewritten, "rewrite", wrong)
    said: list[str] = []
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32",), report=said.append)
    assert [variant.form for variant in bundle.manifest.variants] == ["plain"]
    assert any("narrow-transposed-to-subpixel is left out, for the fp32 file" in line for line in said)


@pytest.mark.parametrize("gain", [0.9, 1.0, 1.02])
def test_no_rewritten_form_is_kept_where_it_hardly_pays(
    source: Path, tmp_path: Path, gains: dict[str, float], gain: float
) -> None:
    gains.update(dict.fromkeys(verify.working_backends("fp32"), gain))
    bundle = export(source, tmp_path / "x.gantk", precisions=("fp32",))
    assert [(variant.form, variant.fastest_on) for variant in bundle.manifest.variants] == [("plain", ())]


def test_a_refused_export_writes_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(GantkError, match="at least 199 dB wanted"):
        export(source, tmp_path / "x.gantk", precisions=("fp32",), psnr_min=199.0, rewrites=False)
    assert list(tmp_path.iterdir()) == []


def test_a_refused_replacement_leaves_the_old_bundle(source: Path, tmp_path: Path) -> None:
    root = export(source, tmp_path / "x.gantk", precisions=("fp32",), rewrites=False).root
    before = tree(root)
    with pytest.raises(GantkError, match="exists"):
        export(source, root, precisions=("fp32",))
    with pytest.raises(GantkError, match="at least 199 dB"):
        export(source, root, precisions=("fp32",), psnr_min=199.0, force=True)
    assert tree(root) == before


def test_exporting_twice_gives_the_same_files(source: Path, tmp_path: Path) -> None:
    a, b = (
        export(source, tmp_path / name, precisions=("fp32", "fp16"), rewrites=False) for name in ("a", "b")
    )
    assert [ref.sha256 for ref in a.manifest.files] == [ref.sha256 for ref in b.manifest.files]


@pytest.mark.parametrize("precisions", [("int4",), ("fp32", "int4"), ()])
def test_an_unknown_precision_is_a_usage_error(
    source: Path, tmp_path: Path, precisions: tuple[str, ...]
) -> None:
    with pytest.raises(UsageError, match="fp32, fp16, bf16"):
        export(source, tmp_path / "x.gantk", precisions=precisions)
    assert list(tmp_path.iterdir()) == []


def test_without_a_backend_there_is_no_export(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "working_backends", lambda precision: ())
    with pytest.raises(BackendMissingError, match="no backend works here"):
        export(source, tmp_path / "x.gantk")


@pytest.fixture
def untraced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing gets as far as PyTorch's exporter."""
    monkeypatch.delattr("gantk.export.pipeline.trace")


@pytest.fixture
def style(tmp_path: Path) -> Path:
    """A checkpoint of a network that takes pictures."""
    module = models.build("style", {"width": 8, "blocks": 1})
    (tmp_path / "style.safetensors").write_bytes(checkpoint.generator_bytes(module))
    return tmp_path / "style.safetensors"


@pytest.mark.usefixtures("untraced")
def test_what_cannot_be_calibrated_is_refused_first(style: Path, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"precisions": ("fp32", "fp16", "int8")}
    with pytest.raises(UsageError, match="int8 wants pictures to calibrate `picture` with"):
        export(style, tmp_path / "x.gantk", **wanted)
    with pytest.raises(GantkError, match="absent` does not exist"):
        export(style, tmp_path / "x.gantk", **wanted, calibration=Calibration(tmp_path / "absent"))
    assert [path.name for path in tmp_path.iterdir()] == ["style.safetensors"]


@pytest.mark.usefixtures("untraced")
@pytest.mark.parametrize(
    ("shapes", "says"),
    [
        ({"usual": ("pic=1x64x64x3",)}, "'pic=1x64x64x3' is of no input; the inputs are picture"),
        ({"usual": ("picture=banana",)}, "'picture=banana' is not NAME=SIZExSIZE"),
        ({"usual": ("picture=1x3x64x64",)}, "'picture=1x3x64x64' does not fit picture"),
        ({"smallest": ("picture=1x99x99x3",), "largest": ("picture=1x88x88x3",)}, "which do not grow"),
    ],
)
def test_shapes_that_do_not_suit_are_refused_first(
    style: Path, tmp_path: Path, shapes: dict[str, tuple[str, ...]], says: str
) -> None:
    if PRODUCTS["tensorrt-rtx"].version is None:
        pytest.skip("wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'")
    for tiles in (False, True):
        with pytest.raises(UsageError, match=says):
            export(
                style, tmp_path / "x.gantk", tiles=tiles, engines=EngineRequest(("tensorrt-rtx",), **shapes)
            )
    assert [path.name for path in tmp_path.iterdir()] == ["style.safetensors"]


def test_the_command_says_what_it_made(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "x.gantk"
    arguments = ["export", str(source), "-o", str(root), "--no-rewrite", "--precision", "fp32"]
    assert main([*arguments, "--json", "-"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)["manifest"]["variants"][0]["precision"] == "fp32"
    assert "model.fp32.onnx" in said.err
    assert main(arguments) == 1
    assert "hint: --force" in capsys.readouterr().err
    assert main([*arguments, "--force"]) == 0
    assert capsys.readouterr().out.strip() == str(root)


def test_a_source_that_is_missing_is_a_failure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(tmp_path / "none"), "-o", str(tmp_path / "x.gantk")]) == 1
    assert "none` does not exist" in capsys.readouterr().err


def test_an_int8_file_is_verified_like_the_others(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, set[bytes]] = {"calibrating": set(), "judging": set()}
    lines: list[str] = []
    honest = verify.measure

    class Watched(int8.Quantiser):
        def __init__(self, data: bytes, feeds: list[Feeds], *rest: Any) -> None:
            seen["calibrating"] |= {feed["latent"].tobytes() for feed in feeds}
            super().__init__(data, feeds, *rest)

    def measure(data: bytes, precision: str, backend: str, references: Any, *rest: Any) -> list[Parity]:
        if precision == "int8":
            seen["judging"] |= {feed["latent"].tobytes() for feed in references[0].feeds}
        return honest(data, precision, backend, references, *rest)

    monkeypatch.setattr(int8, "Quantiser", Watched)
    monkeypatch.setattr(verify, "measure", measure)
    bundle = export(
        source,
        tmp_path / "x.gantk",
        precisions=("fp32", "int8"),
        rewrites=False,
        psnr_min=25.0,
        calibration=Calibration(count=16),
        report=lines.append,
    )
    variant = bundle.find("int8")
    assert [parity.backend for parity in variant.parity] == list(verify.working_backends("int8"))
    assert all(parity.passed and 25 < (parity.psnr_db or 0) < 80 for parity in variant.parity)
    assert [len(feeds) for feeds in seen.values()] == [16, len(BATCHES) + 3]
    assert not seen["calibrating"] & seen["judging"]
    assert "  int8: calibrated with 16 random inputs, judged by 3 others" in lines
    assert Bundle.read(bundle.root).find("int8").calibrated == Calibrated("minmax", 16, 16, 3, 0)
    with gantk.open(bundle.root, precision="int8") as runner:
        assert runner.file_precision == "int8"


def test_engines_are_part_of_the_bundle_or_there_is_none(source: Path, tmp_path: Path) -> None:
    if PRODUCTS["tensorrt-rtx"].version is None:
        pytest.skip("wants tensorrt-rtx: pip install 'gantk[tensorrt-rtx]'")
    wanted = EngineRequest(("tensorrt-rtx",), ("fp16",), BuildOptions(("sm_89",)))
    made = export(source, tmp_path / "x.gantk", precisions=("fp16",), rewrites=False, engines=wanted)
    (engine,) = made.manifest.engines
    assert engine.source == made.find("fp16").file.sha256
    assert {layer.precision for layer in engine.heavy_layers} == {"fp16"}
    starved = EngineRequest(("tensorrt-rtx",), options=BuildOptions(("sm_89",), workspace_bytes=4096))
    with pytest.raises(GantkError, match="workspace limit") as caught:
        export(source, tmp_path / "y.gantk", precisions=("fp16",), rewrites=False, engines=starved)
    assert caught.value.where == f"{source}, fp16 (plain)"  # No file of this name is left.
    assert [path.name for path in tmp_path.iterdir()] == ["x.gantk"]

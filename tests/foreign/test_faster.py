# SPDX-License-Identifier: Apache-2.0
"""Files from elsewhere are rewritten where that is faster, and compute what they did; what is timed suits them."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import gantk
import networks
from foreign_files import file, node, normal, saved
from gantk.bundle import WHOLLY_NATIVE, Bundle, Profile, ShapeRange
from gantk.errors import BackendMissingError
from gantk.export import rewritten, verify
from gantk.export.calibration import Calibration
from gantk.export.foreign import timed
from gantk.export.foreign.graphs import simplified
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.export.foreign.timed import timed_inputs
from gantk.export.rewrites import rewrite
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.registry import open_model


@pytest.fixture(autouse=True)
def no_rewrites(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tried here, and none of them pays where a test does not say that it does."""
    monkeypatch.setattr(rewritten, "speedup", lambda *_: 1.0)
    monkeypatch.setattr(timed, "_latency_s", lambda model, feeds: 0.1)


@pytest.fixture
def pays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewritten, "speedup", lambda *_: 1.5)


def bundled(tmp_path: Path, model: Model, *precisions: str, lines: list[str] | None = None) -> Bundle:
    report = (lines if lines is not None else []).append
    return bundle_onnx(saved(tmp_path, model), tmp_path / "x.gantk", precisions=precisions, report=report)


# --- what becomes of files --------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("pays")
def test_what_is_faster_is_judged_by_arrays_and_as_strictly_as_is_said(tmp_path: Path) -> None:
    """Also where nothing is brought to another precision."""
    (tmp_path / "arrays").mkdir()
    for seed in range(8):
        np.save(tmp_path / "arrays" / f"{seed}.npy", networks.latents(2, seed))
    path = saved(tmp_path, from_bytes(networks.generator(metadata=False)))
    given = Calibration(folder=tmp_path / "arrays", count=4)
    bundle = bundle_onnx(path, tmp_path / "x.gantk", calibration=given)
    assert {tuple(parity.batches) for v in bundle.manifest.variants for parity in v.parity} == {(2, 2, 2)}
    assert bundle.find("fp32", "rewritten")
    strict = bundle_onnx(path, tmp_path / "y.gantk", psnr_min=199)
    assert [variant.form for variant in strict.manifest.variants] == ["plain"]


@pytest.mark.usefixtures("pays")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_what_is_faster_is_kept_beside_the_file(tmp_path: Path, precision: str) -> None:
    data = networks.generator(metadata=False)
    lines: list[str] = []
    bundle = bundled(tmp_path, from_bytes(data), precision, lines=lines)
    plain, other = (bundle.find(precision, form) for form in ("plain", "rewritten"))
    if precision == "fp32":
        assert bundle.read_file(plain.file) == data
    assert other.file.path == f"model.{precision}.rewritten.onnx"
    assert other.rewrites[0] == "narrow-transposed-to-subpixel"
    assert all(verdict.passed for verdict in other.parity)
    assert {verdict.reference for verdict in other.parity} == {"onnxruntime float32"}
    backend = other.fastest_on[0]
    assert f"  {precision} on {backend}: narrow-transposed-to-subpixel makes it 1.50 times as fast" in lines
    feeds = {"latent": normal(3, networks.LATENT)}
    with (
        gantk.open(bundle.root, backend, precision) as chosen,
        gantk.open(bundle.root, form="plain") as runner,
    ):
        made, wanted = (one.run(feeds)["picture"] for one in (chosen, runner))
    np.testing.assert_allclose(made, wanted, atol=1e-6 if precision == "fp32" else 0.05)


def test_what_is_not_faster_is_not_kept(tmp_path: Path) -> None:
    [variant] = bundled(tmp_path, from_bytes(networks.generator(metadata=False))).manifest.variants
    assert (variant.form, variant.fastest_on) == ("plain", ())


@pytest.mark.usefixtures("pays")
def test_nothing_is_tried_where_it_is_not_wanted(tmp_path: Path) -> None:
    path = saved(tmp_path, from_bytes(networks.generator(metadata=False)))
    bundle = bundle_onnx(path, tmp_path / "x.gantk", precisions=("bf16",), rewrites=False)
    assert {variant.form for variant in bundle.manifest.variants} == {"plain"}


@pytest.mark.usefixtures("pays")
def test_a_file_of_another_precision_stays_as_it_is(tmp_path: Path) -> None:
    [variant] = bundled(tmp_path, from_bytes(networks.generator("fp16", metadata=False))).manifest.variants
    assert (variant.precision, variant.form) == ("fp16", "plain")


@pytest.mark.usefixtures("pays")
def test_a_rewrite_that_computes_something_else_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(graph: ir.Model, names: tuple[str, ...]) -> ir.Model | None:
        made = rewrite(graph, names)
        for one in () if made is None else made.graph:
            one.op_type = "Sigmoid" if one.op_type == "Tanh" else one.op_type
        return made

    monkeypatch.setattr(rewritten, "rewrite", wrong)
    lines: list[str] = []
    [variant] = bundled(
        tmp_path, from_bytes(networks.generator(metadata=False)), lines=lines
    ).manifest.variants
    assert variant.form == "plain"
    assert any(
        "narrow-transposed-to-subpixel is left out, for the fp32 file does not compute on onnxruntime what `"
        in line
        for line in lines
    )


BRANCH = helper.make_graph(
    [node("Neg", "x", "n")], "b", [], [helper.make_tensor_value_info("n", TensorProto.FLOAT, ["N", 4])]
)


@pytest.mark.usefixtures("pays")
def test_what_cannot_be_rewritten_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    branches = file(
        [node("ReduceMax", "x", "m", keepdims=0), node("Cast", "m", "c", to=9),
         node("If", "c", "y", then_branch=BRANCH, else_branch=BRANCH)],
    )  # fmt: skip
    lines: list[str] = []
    [variant] = bundled(tmp_path, branches, lines=lines).manifest.variants
    assert variant.form == "plain"
    assert any(line.startswith("  fp32: no rewrites are tried, for node `the If`") for line in lines)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    other = tmp_path / "other"
    other.mkdir()
    bundled(other, from_bytes(networks.generator(metadata=False)), lines=lines)
    assert lines[-1].startswith("  fp32: no rewrites are tried, for an ONNX file is brought")


def test_a_file_that_does_not_run_here_is_taken_as_it_is(tmp_path: Path) -> None:
    """Of 2 x 1 values no row of 17 can be made."""
    lines: list[str] = []
    odd = file([node("Reshape", "x s", "y")], ("N", "K"), s=np.array([-1, 17]))
    [variant] = bundled(tmp_path, odd, lines=lines).manifest.variants
    assert variant.parity == ()
    assert any(line.startswith("  not compared across backends: `") for line in lines)


def test_without_a_backend_there_is_nothing_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verify, "working_backends", lambda precision: ())
    with pytest.raises(BackendMissingError, match="no backend works here to compare `.*/theirs.onnx` with"):
        bundled(tmp_path, from_bytes(networks.generator(metadata=False)))
    assert not (tmp_path / "x.gantk").exists()


# --- networks that people bring ---------------------------------------------------------------------------------------


def folded_padding(opset: int = 17) -> Model:
    """As PyTorch's older exporter writes a reflection: zeros, amounts, and their order turned about."""
    nodes = [
        node("ConstantOfShape", "four", "zeros", value=helper.make_tensor("v", TensorProto.INT64, [1], [0])),
        node("Concat", "amounts zeros", "eight", axis=0),
        node("Reshape", "eight pairs", "rows"),
        node("Slice", "rows last first axis step", "turned"),
        node("Transpose", "turned", "columns", perm=[1, 0]),
        node("Reshape", "columns all", "pads"),
        node("Pad", "x pads", "bordered", mode="reflect"),
        node("Conv", "bordered w", "features"),
        node("InstanceNormalization", "features scale offset", "normal"),
        node("Relu", "normal", "y"),
    ]
    integers = {
        "four": [4], "amounts": [1, 1, 1, 1], "pairs": [-1, 2], "last": [-1], "first": [-(2**63) + 1], "axis": [0],
        "step": [-1], "all": [-1],
    }  # fmt: skip
    weights = {name: np.array(values) for name, values in integers.items()}
    floats = {"w": normal(16, 4, 3, 3), "scale": np.ones(16, np.float32), "offset": np.zeros(16, np.float32)}
    return file(nodes, ("N", 4, "H", "W"), opset, **weights, **floats)


def test_amounts_of_a_padding_that_are_computed_of_constants_are_known() -> None:
    graph = simplified(folded_padding(), "fp32")
    assert [one.op_type for one in graph.graph] == ["Pad", "Conv", "InstanceNormalization", "Relu"]
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert {one.domain for one in other.graph if one.op_type not in ("Transpose", "Relu")} == {"gantk"}


def beginning_with_a_pixel(opset: int) -> Model:
    """A classic DCGAN's, as files of old have it, with batch normalisations after its layers."""

    def layer(given: str, made: str, **how: list[int]) -> list[onnx.NodeProto]:
        named = [node("ConvTranspose", f"{given} {made}.w", f"{made}.t", **how)]
        named.append(
            node("BatchNormalization", " ".join([f"{made}.t", *(f"{made}.{k}" for k in "sbmv")]), f"{made}.n")
        )
        return [*named, node("Relu", f"{made}.n", made)]

    nodes = [*layer("x", "a"), *layer("a", "b", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1])]
    nodes += [node("ConvTranspose", "b c", "d", strides=[2, 2], pads=[1] * 4), node("Tanh", "d", "y")]
    for index, one in enumerate(nodes):
        one.name = f"{one.op_type}.{index}"
    weights = {"a.w": normal(6, 8, 4, 4), "b.w": 0.1 * normal(8, 6, 3, 3), "c": 0.1 * normal(6, 3, 4, 4)}
    for name, channels in (("a", 8), ("b", 6)):
        for key in "sbmv":
            weights[f"{name}.{key}"] = np.abs(normal(channels)) + 0.5
    return file(nodes, ("N", 6, 1, 1), opset, **weights)


@pytest.mark.parametrize("opset", [11, 17, 22])
def test_a_generator_that_begins_with_a_pixel_is_native_throughout(opset: int) -> None:
    model = beginning_with_a_pixel(opset)
    other = rewrite(simplified(model, "fp32"), [WHOLLY_NATIVE])
    assert other is not None
    assert [one.op_type for one in other.graph] == [
        "Reshape", "NhwcConvolutionRelu", "Reshape", "NhwcTransposedConvolution4x4Relu",
        "NhwcTransposedConvolution4x4", "Tanh", "Transpose",
    ]  # fmt: skip
    feeds = {"x": normal(3, 6, 1, 1)}
    made = []
    for data in (model.data, ir.to_proto(other).SerializeToString()):
        with open_model(from_bytes(data), "onnxruntime") as runner:
            made.append(runner.run(feeds)["y"])
    assert np.ptp(made[0]) > 0.1
    np.testing.assert_allclose(made[1], made[0], atol=1e-5)


# --- what is timed ----------------------------------------------------------------------------------------------------


def shapes(model: Model, *profiles: Profile) -> list[tuple[int, ...]]:
    return [array.shape for feeds in timed_inputs(model, profiles) for array in feeds.values()]


def identity(*shape: int | str) -> Model:
    return file([node("Identity", "x", "y")], shape)


@pytest.mark.parametrize(
    ("shape", "timed_shapes"),
    [
        ((2, 3, 8, 8), [(2, 3, 8, 8)]),
        (("N", 100, 1, 1), [(1, 100, 1, 1), (16, 100, 1, 1)]),
        (("N", 100), [(1, 100), (16, 100)]),
        (("N", 3, "H", "W"), [(1, 3, 384, 512)]),
        ((2, 3, "H", "W"), [(2, 3, 384, 512)]),
        (("N", 3, "S", "S"), [(1, 3, 384, 384)]),
        (("N", "H", "W", 3), [(1, 384, 512, 3)]),
    ],
    ids=str,
)
def test_shapes_are_those_of_usual_pictures(
    shape: tuple[int | str, ...], timed_shapes: list[tuple[int, ...]]
) -> None:
    assert shapes(identity(*shape)) == timed_shapes


def test_shapes_are_those_that_engines_are_tuned_for() -> None:
    profile = {"x": ShapeRange((1, 3, 64, 64), (2, 3, 96, 80), (4, 3, 128, 128))}
    assert shapes(identity("N", 3, "H", "W"), profile) == [(2, 3, 96, 80)]


@pytest.mark.parametrize(
    ("pixels_a_s", "shape"),
    [(1e6, (1, 3, 384, 512)), (1e5, (1, 3, 192, 256)), (2e4, (1, 3, 96, 128)), (10.0, (1, 3, 96, 128))],
)
def test_pictures_are_smaller_where_the_network_is_slow(
    monkeypatch: pytest.MonkeyPatch, pixels_a_s: float, shape: tuple[int, ...]
) -> None:
    monkeypatch.setattr(timed, "_latency_s", lambda model, feeds: feeds["x"][0, 0].size / pixels_a_s)
    assert shapes(identity("N", 3, "H", "W")) == [shape]


def test_of_a_slow_network_single_pictures_are_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timed, "_latency_s", lambda model, feeds: 0.1 * len(feeds["x"]))
    assert shapes(identity("N", 3, 256, 256)) == [(1, 3, 256, 256)]


def test_a_shape_that_the_network_does_not_take_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    rows = file([node("Reshape", "x s", "y")], ("N", "K"), s=np.array([-1, 17]))
    assert shapes(rows) == []
    latency_s = timed._latency_s(identity("N", 4), {"x": normal(2, 4)})
    assert latency_s is not None
    assert 0 < latency_s < 10

# SPDX-License-Identifier: Apache-2.0
"""Float32 files from elsewhere in fp16 and bf16: they compute the same, or it is said what does not."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import gantk
import networks
from foreign_files import file, node, normal, saved
from gantk.bundle import Parity
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export import original, verify
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.foreign import lowered
from gantk.export.foreign.graphs import lowerable
from gantk.export.foreign.lowered import lower, random_inputs, reference_of
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.products import Product
from random_graphs import Sketch

HALF = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
BRANCH = helper.make_graph([], "b", [], [helper.make_tensor_value_info("x", TensorProto.FLOAT, None)])


def lowered_to(model: Model, precision: str, sizes: dict[str, int]) -> onnx.ModelProto:
    made = lower(model, precision, reference_of(model, random_inputs(model, sizes)))
    assert all(verdict.passed for verdict in made.variant.parity)
    return onnx.load_from_string(made.data)


def kinds(proto: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in proto.graph.node]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_file_becomes_a_bundle_of_both(tmp_path: Path, precision: str) -> None:
    data = networks.generator(metadata=False)
    lines: list[str] = []
    bundle = bundle_onnx(
        saved(tmp_path, from_bytes(data)), tmp_path / "x.gantk", precisions=(precision,), report=lines.append
    )
    full, low = bundle.manifest.variants
    assert (full.precision, bundle.read_file(full.file)) == ("fp32", data)
    assert (low.precision, low.form, low.file.path) == (precision, "plain", f"model.{precision}.onnx")
    assert {verdict.reference for verdict in low.parity} == {"onnxruntime float32"}
    assert f"{precision}: converting and verifying" in lines
    proto = onnx.load_from_string(bundle.read_file(low.file))
    assert {tensor.data_type for tensor in proto.graph.initializer if tensor.dims != [2]} == {HALF[precision]}
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert low.opset == proto.opset_import[0].version


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_engine_is_built_of_it(rtx: Product, tmp_path: Path, precision: str) -> None:
    product = file([node("MatMul", "x w", "y")], w=normal(4, 8))
    request = EngineRequest((rtx.name,), (precision,), BuildOptions(("sm_89",)))
    [engine] = bundle_onnx(saved(tmp_path, product), tmp_path / "x.gantk", request).manifest.engines
    assert (engine.precision, [layer.precision for layer in engine.heavy_layers]) == (precision, [precision])


def test_a_file_that_does_not_build_is_named_with_its_precision(rtx: Product, tmp_path: Path) -> None:
    odd = file([node("ConvTranspose", "x w", "y", strides=[2, 1])], ("N", 4, 8, 8), w=normal(4, 3, 3, 3))
    request = EngineRequest((rtx.name,), ("bf16",), BuildOptions(("sm_89",)))
    with pytest.raises(
        GantkError, match="layer `the ConvTranspose` of `.*/theirs.onnx in bf16` is a transposed"
    ):
        bundle_onnx(saved(tmp_path, odd), tmp_path / "x.gantk", request)


def test_batch_normalisations_are_folded() -> None:
    """A variance of 1e-9 is 0 in fp16."""
    network = file(
        [node("Conv", "x w", "h"), node("BatchNormalization", "h scale bias mean var", "y", epsilon=1e-12)],
        ("N", 4, 8, 8),
        w=normal(3, 4, 3, 3),
        scale=np.full(3, 1e-5, np.float32),
        bias=np.zeros(3, np.float32),
        mean=np.zeros(3, np.float32),
        var=np.full(3, 1e-9, np.float32),
    )
    assert kinds(lowered_to(network, "fp16", {"N": 2})).count("Conv") == 1
    assert "BatchNormalization" not in kinds(lowered_to(network, "fp16", {"N": 2}))


def test_weights_are_normalised_beforehand() -> None:
    """As by spectral_norm, in float32: of fp16 the norm would be infinite."""
    network = file(
        [node("Mul", "w w", "ww"), node("ReduceSum", "ww", "squares", keepdims=0), node("Sqrt", "squares", "norm"),
         node("Div", "w norm", "v"), node("MatMul", "x v", "y")],
        ("N", 400),
        w=100 * normal(400, 300),
    )  # fmt: skip
    assert kinds(lowered_to(network, "fp16", {"N": 2})) == ["Cast", "MatMul", "Cast"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_what_is_computed_of_sizes_stays_exact(precision: str) -> None:
    """The mean of 70001 values by their number, which fp16 does not hold."""
    mean = file(
        [
            node("ReduceSum", "x axes", "sum", keepdims=1),
            node("Shape", "x", "size", start=1),
            node("Cast", "size", "count", to=TensorProto.FLOAT),
            node("Add", "count zero", "number"),
            node("Div", "sum number", "y"),
        ],
        ("N", "K"),
        axes=np.array([1]),
        zero=np.float32(0),
    )
    lowered_to(mean, precision, {"N": 2, "K": 70001})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_places_are_counted_exactly(precision: str) -> None:
    """For positional encodings: fp16 has no 2049, of which the sine is another."""
    places = file(
        [
            node("Shape", "x", "size", start=1),
            node("Squeeze", "size", "one"),
            node("Cast", "one", "count", to=TensorProto.FLOAT),
            node("Range", "zero count step", "places"),
            node("Sin", "places", "wave"),
            node("Mul", "x wave", "y"),
        ],
        ("N", "K"),
        zero=np.float32(0),
        step=np.float32(1),
    )
    lowered_to(places, precision, {"N": 2, "K": 5000})


def test_layers_on_places_are_lowered() -> None:
    """As of networks that paint a picture from coordinates."""
    network = file(
        [
            node("Shape", "x", "size", start=1),
            node("Cast", "size", "count", to=TensorProto.FLOAT),
            node("Div", "count most", "share"),
            node("MatMul", "share w", "h"),
            node("Sin", "h", "wave"),
            node("Add", "x wave", "y"),
        ],
        ("N", "K"),
        most=np.float32(100),
        w=normal(1, 1),
    )
    kept = [one.op_type for one in lowerable(network, "fp16").graph if one.metadata_props]
    assert kept == ["Cast", "Div"]
    lowered_to(network, "fp16", {"N": 2, "K": 50})


def test_pictures_are_sampled_where_they_should_be() -> None:
    """Of 1000 columns bf16 tells four apart in the middle of a half, and one from its neighbours nowhere."""
    columns = np.linspace(-1, 1, 1000, dtype=np.float32)
    grid = np.stack([columns, np.zeros_like(columns)], -1)[None, None]
    network = file(
        [
            node("Conv", "x w", "h"),
            node("GlobalMaxPool", "h", "step"),
            node("Mul", "step tiny", "less"),
            node("Add", "grid less", "places"),
            node("GridSample", "h places", "y", align_corners=1),
        ],
        (1, 3, 1, 1000),
        w=np.ones((1, 3, 1, 1), np.float32),
        grid=grid,
        tiny=np.float32(1e-5),
    )
    graph = lowerable(network, "bf16")
    kept = {one.op_type for one in graph.graph if one.metadata_props}
    assert {"GridSample", "Add", "Mul"} <= kept
    assert "Conv" not in kept
    lowered_to(network, "bf16", {})


def test_what_has_float32_alone_is_left_in_it() -> None:
    """A value of a type that an attribute says, and an operator that takes no other."""
    network = file(
        [
            node("Shape", "x", "shape"),
            node("ConstantOfShape", "shape", "ones", value=helper.make_tensor("v", 1, [1], [1.5])),
            node("Mul", "x ones", "y"),
        ],
        ("N", "K"),
    )
    graph = lowerable(network, "fp16")
    assert [one.op_type for one in graph.graph if one.metadata_props] == ["ConstantOfShape"]
    lowered_to(network, "fp16", {"N": 2, "K": 5})


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_an_operator_of_float32_alone(precision: str) -> None:
    network = file([node("MatMul", "x w", "h"), node("Celu", "h", "y")], w=normal(4, 4))
    graph = lowerable(network, precision)
    assert [one.op_type for one in graph.graph if one.metadata_props] == ["Celu"]
    lowered_to(network, precision, {"N": 2})


def test_a_sum_that_is_read_in_fp16_is_within_its_range() -> None:
    sums = file(
        [
            node("ReduceSumSquare", "x", "s", keepdims=1, axes=[1]),
            node("MatMul", "s w", "h"),
            node("Tanh", "h", "y"),
        ],
        ("N", 40000),
        w=np.float32([[1e-5]]),
    )
    with pytest.raises(GantkError, match="layer `the ReduceSumSquare` reaches .* in float32"):
        lowered_to(sums, "fp16", {"N": 2})


def test_sums_stay_in_float32() -> None:
    """70000 ones are infinite in fp16; their softmax and norm are not."""
    sums = file(
        [node("ReduceSum", "x axes", "s", keepdims=1), node("Div", "x s", "y")],
        ("N", "K"),
        axes=np.array([1]),
    )
    proto = lowered_to(sums, "bf16", {"N": 2, "K": 300})
    cast = next(one for one in proto.graph.node if one.output[0] == proto.graph.node[-1].input[0])
    assert "ReduceSum" in kinds(proto)
    assert cast is not None


def test_a_layer_that_leaves_the_range_of_fp16_is_named() -> None:
    large = file([node("MatMul", "x w", "h"), node("Tanh", "h", "y")], w=1e5 * normal(4, 4))
    with pytest.raises(GantkError, match="a weight of layer `the MatMul` is .*; fp16 cannot hold it"):
        lowered_to(large, "fp16", {"N": 2})
    twice = file(
        [node("MatMul", "x w", "h"), node("Mul", "h k", "i"), node("Tanh", "i", "y")],
        w=1e3 * normal(4, 4),
        k=np.float32(1e3),
    )
    with pytest.raises(GantkError, match="layer `the Mul` reaches .* in float32; fp16 is safe to 32768"):
        lowered_to(twice, "fp16", {"N": 2})
    lowered_to(twice, "bf16", {"N": 2})


def test_what_stays_in_float32_may_leave_the_range() -> None:
    sums = file(
        [
            node("Shape", "x", "s", start=1),
            node("Cast", "s", "c", to=1),
            node("Mul", "c c", "d"),
            node("Div", "x d", "y"),
        ],
        ("N", "K"),
    )
    lowered_to(sums, "fp16", {"N": 2, "K": 400})


def test_the_layer_at_fault_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    network = file(
        [node("MatMul", "x v", "h"), node("Sigmoid", "h", "s"), node("Gemm", "s w", "y")],
        v=normal(4, 4),
        w=normal(4, 4),
    )
    inside = original.convert

    def wrong(graph: ir.Model, precision: str) -> ir.Model:
        low = inside(graph, precision)
        next(one for one in low.graph if one.op_type == "Sigmoid").op_type = "Tanh"
        return low

    monkeypatch.setattr(original, "convert", wrong)
    with pytest.raises(
        GantkError, match="does not compute on onnxruntime what .*; layer `the Sigmoid` is the first"
    ):
        lowered_to(network, "fp16", {"N": 3})


@pytest.mark.parametrize(
    ("nodes", "text"),
    [
        (
            [node("Identity", "x", "b"), node("ReduceMax", "b", "m", keepdims=0), node("Cast", "m", "c", to=9),
             node("If", "c", "y", then_branch=BRANCH, else_branch=BRANCH)],
            "node `the If` .* has graphs inside",
        ),
        ([node("Inverse", "x", "y", domain="com.microsoft")], "node `the Inverse` .* is an operator of com.microsoft"),
    ],
)  # fmt: skip
def test_what_is_not_lowered(nodes: list[onnx.NodeProto], text: str) -> None:
    model = file(nodes, (4, 4), domain="com.microsoft")
    with pytest.raises(GantkError, match=text) as caught:
        lowerable(model, "fp16")
    assert caught.value.hint == "leave --precision out: engines compute in the types of the file"


def test_files_of_old_opsets_are_brought_to_newer_ones() -> None:
    old = file(
        [node("Conv", "x w", "h", pads=[1] * 4), node("ReduceMax", "h", "y", axes=[2, 3])],
        ("N", 4, 8, 8),
        opset=9,
        w=normal(3, 4, 3, 3),
    )
    for precision, least in (("fp16", 13), ("bf16", 22)):
        assert lowered_to(old, precision, {"N": 2}).opset_import[0].version == least


def test_weights_may_be_named_among_the_inputs() -> None:
    proto = onnx.load_from_string(file([node("MatMul", "x w", "y")], w=normal(4, 8)).data)
    proto.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4, 8]))
    lowered = lowered_to(from_bytes(proto.SerializeToString()), "fp16", {"N": 2})
    assert [value.name for value in lowered.graph.input] == ["x"]
    assert [tensor.data_type for tensor in lowered.graph.initializer] == [TensorProto.FLOAT16]


def test_what_cannot_be_simplified_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise ValueError("odd\nand more")

    monkeypatch.setattr("onnxscript.optimizer.optimize_ir", fails)
    with pytest.raises(GantkError, match="onnxscript cannot simplify `theirs`: ValueError: odd\n"):
        lowerable(file([node("Relu", "x", "y")]), "fp16")


def test_an_opset_from_which_nothing_leads_on_is_said() -> None:
    old = file([node("Nonsense", "x", "y")], opset=9)
    with pytest.raises(GantkError, match="is of opset 9, and cannot be brought to 13") as caught:
        lowerable(old, "fp16")
    assert caught.value.hint == "export it again with opset_version=13 or later"


def test_local_functions_are_inlined() -> None:
    body = helper.make_function(
        "theirs", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )  # fmt: skip
    proto = onnx.load_from_string(file([node("Twice", "x", "y", domain="theirs")], domain="theirs").data)
    proto.functions.append(body)
    assert "Add" in kinds(lowered_to(from_bytes(proto.SerializeToString()), "fp16", {"N": 2}))


@pytest.mark.parametrize("seed", range(40))
def test_random_networks_compute_the_same(seed: int) -> None:
    sketch = Sketch(seed)
    model = from_bytes(ir.to_proto(sketch.graph()).SerializeToString())
    reference = reference_of(model, [{"x": sketch.x}])
    for precision in ("fp16", "bf16"):
        made = lower(model, precision, reference, psnr_min=30 if precision == "bf16" else 45)
        assert from_bytes(made.data).precision in (precision, "fp32")  # Where there is no weight.


def test_what_a_file_cannot_become(tmp_path: Path) -> None:
    path = saved(tmp_path, from_bytes(networks.generator("fp16", metadata=False)))
    with pytest.raises(GantkError, match="is fp16, and not fp32"):
        bundle_onnx(path, tmp_path / "x.gantk", precisions=("fp32",))
    assert not (tmp_path / "x.gantk").exists()


def test_there_is_something_to_compare_with(tmp_path: Path) -> None:
    noise = saved(tmp_path, file([node("RandomNormalLike", "x", "r"), node("Add", "x r", "y")]))
    with pytest.raises(GantkError, match="there is nothing to compare .* in fp16 with"):
        bundle_onnx(noise, tmp_path / "x.gantk", precisions=("fp16",))
    odd = saved(tmp_path, file([node("Reshape", "x s", "y")], ("N", "K"), s=np.array([-1, 17])))
    with pytest.raises(GantkError, match="does not run on x 2x1, so nothing can be compared with it"):
        bundle_onnx(odd, tmp_path / "x.gantk", precisions=("fp16",))


def test_pictures_of_any_size_have_one(tmp_path: Path) -> None:
    """Nothing says that they are pictures; of one pixel there is no reflection."""
    network = file(
        [node("Pad", "x p", "y", mode="reflect")], ("n", 3, "h", "w"), p=np.array([0, 0, 1, 1, 0, 0, 1, 1])
    )
    bundle = bundle_onnx(saved(tmp_path, network), tmp_path / "x.gantk", precisions=("fp16",))
    assert [variant.precision for variant in bundle.manifest.variants] == ["fp32", "fp16"]


def test_a_backend_that_has_a_file_wrong_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenVINO 2026.4 drops some borders before convolutions."""
    inside = verify.measure

    def wrong(data: bytes, precision: str, backend: str, *rest: Any) -> list[Parity]:
        [verdict] = inside(data, precision, backend, *rest)
        return [replace(verdict, passed=False, reason="0 dB PSNR, at least 80 dB wanted")]

    monkeypatch.setattr(verify, "measure", wrong)
    path = saved(tmp_path, from_bytes(networks.generator(metadata=False)))
    [variant] = bundle_onnx(path, tmp_path / "x.gantk").manifest.variants
    assert [(v.backend, v.reference) for v in variant.parity] == [("openvino", "onnxruntime float32")]
    with pytest.raises(GantkError, match="openvino computes `model.fp32.onnx` wrong"):
        gantk.open(tmp_path / "x.gantk", "openvino")
    with gantk.open(tmp_path / "x.gantk", "auto") as runner:
        assert runner.backend == "onnxruntime"


def test_a_psnr_is_of_something(tmp_path: Path) -> None:
    path = saved(tmp_path, from_bytes(networks.generator(metadata=False)))
    with pytest.raises(UsageError, match="--psnr-min is for what is made of a file"):
        bundle_onnx(path, tmp_path / "x.gantk", precisions=("fp32",), rewrites=False, psnr_min=40)
    with pytest.raises(GantkError, match="dB PSNR, at least 190 dB wanted"):
        bundle_onnx(path, tmp_path / "x.gantk", precisions=("fp16",), psnr_min=190)


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    model = from_bytes(networks.generator(metadata=False))
    reference = reference_of(model, random_inputs(model, {"N": 2}))
    monkeypatch.setattr(
        verify, "working_backends", lambda precision: ("onnxruntime",) if precision == "fp32" else ()
    )
    with pytest.raises(BackendMissingError, match="no backend here runs bf16 files"):
        lower(model, "bf16", reference)
    monkeypatch.setattr(lowered, "cpu_backends", lambda model: iter(()))
    with pytest.raises(BackendMissingError, match="no backend works here to compare"):
        reference_of(model, random_inputs(model, {"N": 2}))
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(BackendMissingError, match="by onnxscript, which is not installed"):
        lowerable(model, "fp16")


def test_a_bundle_runs_it(tmp_path: Path) -> None:
    path = saved(tmp_path, from_bytes(networks.generator(metadata=False)))
    root = bundle_onnx(path, tmp_path / "x.gantk", precisions=("fp16",)).root
    made = []
    for precision in ("fp32", "fp16"):
        with gantk.open(root, "onnxruntime", precision) as runner:
            assert runner.file_precision == precision
            made.append(runner.run({"latent": normal(2, networks.LATENT)})["picture"])
    assert 0 < np.abs(made[0] - made[1]).max() < 0.01

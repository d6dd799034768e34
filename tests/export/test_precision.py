# SPDX-License-Identifier: Apache-2.0
"""Lowering a graph to fp16 or bf16, and the audit that forbids it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from gantk.errors import GantkError
from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.export.precision import audit_range, convert, expose_intermediates, refuse_overflow
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model

LOW = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def graph_of(nodes: list[onnx.NodeProto], weights: dict[str, np.ndarray]) -> ir.Model:
    shape = ["N", 2, "H", "W"]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, strict_mode=True))


def conv_graph(scale: float = 1.0) -> ir.Model:
    weight = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32) * scale
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"], name="last"),
    ]
    return graph_of(nodes, {"w": weight})


def norm_graph() -> ir.Model:
    """An instance norm: summing squares of values near 1000 overflows fp16."""
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["m"], name="scale"),
        helper.make_node("InstanceNormalization", ["m", "g", "b"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["y"], name="last"),
    ]
    weights = {"k": np.float32([1000.0]), "g": np.ones(2, np.float32), "b": np.zeros(2, np.float32)}
    return graph_of(nodes, weights)


def native_graph(operator: str, weights: dict[str, np.ndarray]) -> ir.Model:
    node = helper.make_node(operator, ["x", *weights], ["y"], name="last", domain=DOMAIN)
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", "H", "W", 2]) for name in "xy")
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    graph = helper.make_graph([node], "test", [x], [y], stored)
    model = helper.make_model(graph, functions=bodies(OPSET), opset_imports=opsets, ir_version=10)
    return ir.from_proto(model)


def run(graph: ir.Model, x: np.ndarray) -> np.ndarray:
    with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), "onnxruntime") as runner:
        return runner.run({"x": x})["y"]


def types(graph: ir.Model) -> dict[str, ir.DataType | None]:
    return {value.name or "": value.dtype for node in graph.graph for value in node.outputs}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_weights_and_layers_are_lowered_and_borders_stay_float32(precision: str) -> None:
    lowered = convert(conv_graph(), precision)
    proto = ir.to_proto(lowered)
    onnx.checker.check_model(proto, full_check=True)
    assert {tensor.data_type for tensor in proto.graph.initializer} == {LOW[precision]}
    assert types(lowered)["c"] == LOW[precision]
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert [node.op_type for node in proto.graph.node] == ["Cast", "Conv", "Relu", "Cast"]


def test_the_graph_that_is_lowered_is_left_as_it_was() -> None:
    graph = conv_graph()
    before = ir.to_proto(graph).SerializeToString(deterministic=True)
    convert(graph, "fp16")
    assert ir.to_proto(graph).SerializeToString(deterministic=True) == before


def test_a_lowered_graph_computes_the_same_to_half_precision() -> None:
    x = np.random.default_rng(1).standard_normal((2, 2, 5, 7), np.float32)
    exact = run(conv_graph(), x)
    lowered = run(convert(conv_graph(), "fp16"), x)
    assert 0 < np.abs(lowered - exact).max() < 2e-3 * np.abs(exact).max()


def test_sums_of_many_terms_stay_in_float32_islands() -> None:
    lowered = convert(norm_graph(), "fp16")
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert types(lowered)["m"] == ir.DataType.FLOAT16
    assert types(lowered)["n"] == ir.DataType.FLOAT
    assert types(lowered)["m.float"] == ir.DataType.FLOAT
    # What follows an island value by value goes with it; then there is nothing to cast back from.
    assert types(lowered)["y"] == ir.DataType.FLOAT
    assert [node.op_type for node in lowered.graph] == [
        "Cast",
        "Mul",
        "Cast",
        "InstanceNormalization",
        "Relu",
    ]


def test_an_island_ends_before_whole_tensors_that_are_not_of_it() -> None:
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "g", "b"], ["n"], name="norm"),
        helper.make_node("Mul", ["n", "v"], ["s"], name="scale"),
        helper.make_node("Add", ["s", "x"], ["a"], name="residual"),
        helper.make_node("Relu", ["a"], ["y"], name="last"),
    ]
    weights = {
        "g": np.ones(2, np.float32),
        "b": np.zeros(2, np.float32),
        "v": np.ones((1, 2, 1, 1), np.float32),
    }
    found = types(convert(graph_of(nodes, weights), "fp16"))
    assert (found["n"], found["s"]) == (ir.DataType.FLOAT, ir.DataType.FLOAT)
    assert found["a"] == ir.DataType.FLOAT16


def test_an_instance_norm_overflows_without_its_island() -> None:
    """In fp16 throughout the squares are infinite and the picture is black; with the island it is right."""
    x = np.random.default_rng(2).standard_normal((1, 2, 8, 8), np.float32)
    values = (x * 1000).astype(np.float16)
    with np.errstate(over="ignore", invalid="ignore"):
        variance = (values**2).mean(axis=(2, 3), dtype=np.float16)
        naive = values / np.sqrt(variance)[..., None, None]
    assert not naive.any()
    island = run(convert(norm_graph(), "fp16"), x)
    np.testing.assert_allclose(island, run(norm_graph(), x), atol=5e-3)


def test_scales_that_an_operator_wants_in_float32_stay() -> None:
    node = helper.make_node("Resize", ["x", "", "s"], ["r"], name="grow", mode="nearest")
    shrink = helper.make_node("MaxPool", ["r"], ["y"], name="shrink", kernel_shape=[2, 2], strides=[2, 2])
    lowered = convert(graph_of([node, shrink], {"s": np.float32([1, 1, 2, 2])}), "fp16")
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert lowered.graph.initializers["s"].dtype == ir.DataType.FLOAT


def test_a_weight_that_fp16_cannot_hold_is_refused_by_layer() -> None:
    with pytest.raises(GantkError, match=r"layer `first` is .*fp16 cannot hold it"):
        convert(conv_graph(scale=1e5), "fp16")
    assert np.isfinite(
        convert(conv_graph(scale=1e5), "bf16").graph.initializers["w.bf16"].const_value.numpy()
    ).all()


def test_the_audit_finds_the_peak_of_each_layer() -> None:
    graph = conv_graph(scale=100.0)
    x = np.random.default_rng(3).standard_normal((2, 2, 6, 6), np.float32)
    data = ir.to_proto(graph).SerializeToString()
    peaks = audit_range(data, [{"x": x}, {"x": 3 * x}], "onnxruntime")
    assert list(peaks) == ["first", "last"]
    np.testing.assert_allclose(peaks["last"], run(graph, 3 * x).max(), rtol=1e-5)


@pytest.mark.parametrize("scales", [(-1, 1), (1, -1)], ids=str)
def test_what_is_no_number_is_seen_whatever_else_is_tried(scales: tuple[int, int]) -> None:
    graph = graph_of([helper.make_node("Sqrt", ["x"], ["y"], name="root")], {})
    x = np.ones((1, 2, 3, 3), np.float32)
    data = ir.to_proto(graph).SerializeToString()
    peaks = audit_range(data, [{"x": scale * x} for scale in scales], "onnxruntime")
    assert np.isnan(peaks["root"])


def test_a_range_beyond_fp16_is_refused_by_its_first_layer() -> None:
    refuse_overflow({"a": 1.0, "b": 2.0**15})
    with pytest.raises(GantkError, match=r"layer `b` reaches 3\.3e\+04 in float32") as caught:
        refuse_overflow({"a": 1.0, "b": 33000.0, "c": 1e9})
    assert "--precision" in (caught.value.hint or "")
    with pytest.raises(GantkError, match="layer `a` reaches nan"):
        refuse_overflow({"a": float("nan")})


def test_intermediates_of_a_lowered_graph_come_out_in_float32() -> None:
    lowered = convert(conv_graph(), "fp16")
    exposed = expose_intermediates(lowered)
    assert exposed["c.float"] == ("c", "first")
    assert all(output.dtype == ir.DataType.FLOAT for output in lowered.graph.outputs)


@pytest.mark.parametrize("precision", LOW)
def test_what_an_island_reads_comes_out_too(precision: str) -> None:
    """By the cast that the island has: a second would have the same name."""
    lowered = convert(norm_graph(), precision)
    exposed = expose_intermediates(lowered)
    assert exposed["m.float"] == ("m", "scale")
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    if precision == "fp16":
        x = np.random.default_rng(0).standard_normal((1, 2, 5, 5), np.float32)
        with open_model(from_bytes(ir.to_proto(lowered).SerializeToString()), "onnxruntime") as runner:
            outputs = runner.run({"x": x})
        np.testing.assert_allclose(outputs["m.float"], 1000 * x, rtol=2e-3)


def test_an_output_that_an_island_reads_has_one_cast() -> None:
    graph = norm_graph()
    (scaled,) = graph.graph[0].outputs
    graph.graph.outputs.append(scaled)
    lowered = convert(graph, "fp16")
    assert [output.name for output in lowered.graph.outputs] == ["y", "m"]
    assert [node.op_type for node in lowered.graph].count("Cast") == 2
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5), np.float32)
    with open_model(from_bytes(ir.to_proto(lowered).SerializeToString()), "onnxruntime") as runner:
        outputs = runner.run({"x": x})
    np.testing.assert_allclose(outputs["m"], 1000 * x, rtol=2e-3)
    np.testing.assert_allclose(outputs["y"], run(norm_graph(), x), atol=5e-3)


def test_values_of_each_channel_stay_in_float32_with_an_island() -> None:
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "g", "b"], ["n"], name="norm"),
        helper.make_node("Mul", ["n", "k"], ["y"], name="scale"),
    ]
    ones = np.ones(2, np.float32)
    graph = graph_of(nodes, {"g": ones, "b": ones, "k": np.float32([0.3, 3]).reshape(2, 1, 1)})
    assert [node.op_type for node in convert(graph, "fp16").graph] == ["InstanceNormalization", "Mul"]


def test_pixels_become_half_at_once() -> None:
    nodes = [
        helper.make_node("Cast", ["x"], ["p"], name="pixels", to=TensorProto.UINT8),
        helper.make_node("Cast", ["p"], ["f"], name="floats", to=TensorProto.FLOAT),
        helper.make_node("Relu", ["f"], ["y"], name="last"),
    ]
    lowered = convert(graph_of(nodes, {}), "fp16")
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert [node.name for node in lowered.graph] == ["pixels", "floats", "last", "y/Cast.float"]
    assert types(lowered)["f"] == ir.DataType.FLOAT16


def branched(kind: str, *, small: bool) -> ir.Model:
    """A normalisation, and what is computed of it with values of each channel or of each pixel."""
    nodes = [
        helper.make_node("InstanceNormalization", ["x", "g", "b"], ["n"], name="norm"),
        helper.make_node("Abs", ["x"], ["a"], name="whole"),
        helper.make_node("MaxPool", ["a"], ["p"], name="pool", kernel_shape=[2, 2]),
        helper.make_node("GlobalMaxPool", ["p"], ["m"], name="peak"),
        helper.make_node("Add", ["m", "m"], ["d"], name="double"),
        helper.make_node(kind, ["n", "d" if small else "a"], ["y"], name="last"),
    ]
    return graph_of(nodes, {"g": np.ones(2, np.float32), "b": np.zeros(2, np.float32)})


@pytest.mark.parametrize("kind", ["Mul", "Add", "Max"])
@pytest.mark.parametrize("small", [True, False])
def test_what_follows_an_island_stays_with_it_unless_whole_pictures_come_in(kind: str, small: bool) -> None:
    lowered = convert(branched(kind, small=small), "fp16")
    float32 = {node.name for node in lowered.graph if node.outputs[0].dtype == ir.DataType.FLOAT}
    follows = small and kind != "Max"
    assert {name for name in float32 if "/" not in name} == ({"norm", "last"} if follows else {"norm"})
    x = np.random.default_rng(0).standard_normal((1, 2, 5, 5), np.float32)
    np.testing.assert_allclose(run(lowered, x), run(branched(kind, small=small), x), atol=0.03)


def test_layers_that_share_a_weight_share_it_in_half() -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["c", "w"], ["y"], name="second", pads=[1, 1, 1, 1]),
    ]
    weight = np.random.default_rng(0).standard_normal((2, 2, 3, 3)).astype(np.float32)
    lowered = convert(graph_of(nodes, {"w": weight}), "fp16")
    assert list(lowered.graph.initializers) == ["w.fp16"]


def also(graph: ir.Model, value: ir.Value, kind: str, made: ir.DataType, **attributes: int) -> None:
    """Make another output of a tensor."""
    node = ir.node(kind, [value], attributes, name=kind.lower())
    node.outputs[0].name, node.outputs[0].type = f"{kind}.out", ir.TensorType(made)
    node.outputs[0].shape = ir.Shape([4]) if kind == "Shape" else value.shape
    graph.graph.append(node)
    graph.graph.outputs.append(node.outputs[0])


def test_whole_numbers_stay_what_they_are_and_are_no_intermediates() -> None:
    """Those of pixels are made of what an island yields by one cast."""
    graph = norm_graph()
    normal = graph.graph[1].outputs[0]
    also(graph, graph.graph[0].outputs[0], "Shape", ir.DataType.INT64)
    also(graph, normal, "Cast", ir.DataType.UINT8, to=ir.DataType.UINT8)
    lowered = convert(graph, "fp16")
    (normal,) = (node.outputs[0] for node in lowered.graph if node.name == "norm")
    assert {user.name for user, _ in normal.uses()} == {"last", "cast"}
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)
    assert set(expose_intermediates(lowered)) == {"x.float16.float", "m.float", "n", "y"}


def test_an_output_that_is_made_pixels_too_is_cast_for_itself() -> None:
    graph = conv_graph()
    also(graph, graph.graph.outputs[0], "Cast", ir.DataType.UINT8, to=ir.DataType.UINT8)
    lowered = convert(graph, "fp16")
    types = {output.name: output.dtype for output in lowered.graph.outputs}
    assert types == {"y": ir.DataType.FLOAT, "Cast.out": ir.DataType.UINT8}
    onnx.checker.check_model(ir.to_proto(lowered), full_check=True)


@pytest.mark.parametrize("precision", LOW)
@pytest.mark.parametrize(
    ("ending", "added"),
    [("", []), ("Sum", ["others"]), ("PRelu", ["slopes"]), ("SumPRelu", ["others", "slopes"])],
)
def test_what_an_operator_takes_as_float32_stays_so(ending: str, added: list[str], precision: str) -> None:
    shapes = {"factors": (1, 2), "offsets": (1, 2), "others": (1, 3, 4, 1), "slopes": (2,)}
    names = ["factors", "offsets", *added]
    graph = native_graph(
        f"NhwcAffine{ending}", {name: np.full(shapes[name], 0.3, np.float32) for name in names}
    )
    low = convert(graph, precision)
    (node,) = (node for node in low.graph if node.op_type != "Cast")
    lower = ir.DataType(LOW[precision])
    wanted = [lower if name in ("x", "others") else ir.DataType.FLOAT for name in ("x", *names)]
    assert [value.dtype for value in node.inputs if value is not None] == wanted
    if precision == "fp16":  # In bf16 ONNX Runtime has no bodies to run.
        x = np.random.default_rng(0).standard_normal((2, 3, 4, 2)).astype(np.float32)
        np.testing.assert_allclose(run(low, x), run(graph, x), atol=2e-3)


@pytest.mark.parametrize("precision", LOW)
def test_scale_and_offset_of_layers_stay_float32(precision: str) -> None:
    graph = native_graph("NhwcLayerNorm", {"scale": np.float32([0.3, 3]), "offset": np.float32([0.7, -7])})
    low = convert(graph, precision)
    (node,) = (node for node in low.graph if node.op_type != "Cast")
    wanted = [ir.DataType(LOW[precision]), ir.DataType.FLOAT, ir.DataType.FLOAT]
    assert [value.dtype for value in node.inputs if value is not None] == wanted

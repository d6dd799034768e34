# SPDX-License-Identifier: Apache-2.0
"""Every rewrite is proven equal to what it replaces."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export_graphs import kinds, make_graph
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.functions import DOMAIN
from gantk.export.precision import convert
from gantk.export.rewrites import NATIVE, ONLY_IN, ONLY_ON, REWRITES, STEPS, rewrite
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model

SUBPIXEL = ("narrow-transposed-to-subpixel", "transposed-to-subpixel")

DOUBLES: dict[int, dict[str, object]] = {
    4: {},
    3: {"output_padding": [1, 1]},
    2: {"pads": [0, 0, 0, 0]},
}
"""By its kernel, how else a transposed convolution doubles pictures."""


def transposed(
    inputs: int,
    outputs: int,
    *,
    bias: bool,
    after: str = "Relu",
    kernel: int = 4,
    seed: int = 0,
    **attributes: object,
) -> ir.Model:
    random = np.random.default_rng(seed)
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    weights = {"w": random.standard_normal((inputs, outputs // group, kernel, kernel)).astype(np.float32)}
    if bias:
        weights["b"] = random.standard_normal(outputs).astype(np.float32)
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1], **attributes}
    nodes = [helper.make_node("ConvTranspose", ["x", *weights], ["t"], name="grow", **attributes)]
    nodes.append(helper.make_node(after, ["t"], ["y"], name="after"))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", inputs, "H", "W"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", outputs, "P", "Q"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10))


def rewritten(graph: ir.Model) -> ir.Model:
    """With the one of the two that applies."""
    (copy,) = (copy for name in SUBPIXEL if (copy := rewrite(graph, [name])) is not None)
    return copy


def run(graph: ir.Model, x: np.ndarray) -> np.ndarray:
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    with open_model(from_bytes(proto.SerializeToString()), "onnxruntime") as runner:
        return runner.run({"x": x})["y"]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 7),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    bias=st.booleans(),
    after=st.sampled_from(["Relu", "Tanh", "Neg"]),
    kernel=st.sampled_from([*DOUBLES]),
    seed=st.integers(0, 100),
)
def test_subpixel_convolutions_equal_the_transposed_one(
    batch: int,
    inputs: int,
    outputs: int,
    height: int,
    width: int,
    bias: bool,
    after: str,
    kernel: int,
    seed: int,
) -> None:
    graph = transposed(
        inputs,
        outputs,
        bias=bias,
        after=after,
        kernel=kernel,
        seed=seed,
        **DOUBLES[kernel],  # type: ignore[arg-type]
    )
    x = np.random.default_rng(seed).standard_normal((batch, inputs, height, width)).astype(np.float32)
    other = rewritten(graph)
    assert "ConvTranspose" not in {node.op_type for node in other.graph}
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=2e-5)


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(5, 7),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    bias=st.booleans(),
    after=st.sampled_from(["Relu", "Tanh"]),
    kernel=st.sampled_from([*DOUBLES]),
)
def test_a_function_equals_the_transposed_convolution(
    batch: int, inputs: int, outputs: int, height: int, width: int, bias: bool, after: str, kernel: int
) -> None:
    graph = transposed(inputs, outputs, bias=bias, after=after, kernel=kernel, **DOUBLES[kernel])  # type: ignore[arg-type]
    x = np.random.default_rng(0).standard_normal((batch, inputs, height, width)).astype(np.float32)
    other = rewrite(graph, ["transposed-to-native"])
    assert other is not None
    function = "TransposedConvolution4x4" + ("Relu" if after == "Relu" else "")
    assert next((node.domain, node.op_type) for node in other.graph) == (DOMAIN, function)
    assert [name for _, name, _ in other.functions] == [function]
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=2e-5)  # By its body.


def test_a_layer_with_few_outputs_becomes_one_convolution_and_others_four() -> None:
    few, many = rewritten(transposed(8, 4, bias=True)), rewritten(transposed(8, 5, bias=True))
    assert [node.op_type for node in few.graph] == ["Conv", "Relu", "DepthToSpace"]
    assert [node.op_type for node in many.graph] == ["Conv", "Relu"] * 4 + ["Concat", "DepthToSpace"]


def test_only_an_activation_moves_before_the_depth_to_space() -> None:
    other = rewritten(transposed(2, 2, bias=True, after="Softmax"))
    assert [node.op_type for node in other.graph] == ["Conv", "DepthToSpace", "Softmax"]


@settings(max_examples=10, deadline=None, derandomize=True)
@given(
    inputs=st.integers(1, 5), outputs=st.integers(1, 7), kernel=st.integers(2, 4), height=st.integers(2, 7)
)
def test_a_bias_apart_is_added_alike(inputs: int, outputs: int, kernel: int, height: int) -> None:
    graph = transposed(inputs, outputs, bias=True, kernel=kernel, output_padding=[1, 0])
    x = np.random.default_rng(0).standard_normal((2, inputs, height, 5)).astype(np.float32)
    other = rewrite(graph, ["transposed-bias-apart"])
    assert other is not None
    assert [node.op_type for node in other.graph] == ["ConvTranspose", "Add", "Relu"]
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=2e-6)
    assert rewrite(transposed(inputs, outputs, bias=False), ["transposed-bias-apart"]) is None


def test_a_bias_and_a_relu_are_one_function_channels_last() -> None:
    graph = transposed(5, 6, bias=True)
    x = np.random.default_rng(0).standard_normal((2, 5, 4, 3)).astype(np.float32)
    other = rewrite(graph, ["bias-relu-to-native"])
    assert other is not None
    assert [node.op_type for node in other.graph] == ["ConvTranspose", "Transpose", "BiasRelu", "Transpose"]
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=2e-6)
    half = convert(other, "fp16")
    (node,) = (node for node in half.graph if node.op_type == "BiasRelu")
    assert node.inputs[1] is not None and node.inputs[1].dtype == ir.DataType.FLOAT
    np.testing.assert_allclose(run(half, x), run(graph, x), atol=2e-2)
    for left in (transposed(5, 6, bias=False), transposed(5, 6, bias=True, after="Tanh")):
        assert rewrite(left, ["bias-relu-to-native"]) is None


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel": 3},
        {"kernel": 3, "output_padding": [1, 0]},
        {"kernel": 3, "output_padding": [1, 1], "pads": [0, 1, 1, 1]},
        {"kernel": 2},
        {"pads": [0, 0, 0, 0]},
        {"pads": [0, 0, 0, 0], "auto_pad": "SAME_UPPER"},
        {"strides": [1, 1]},
        {"group": 2},
        {"output_padding": [0, 1]},
        {"dilations": [2, 2]},
        {"output_shape": [11, 9]},
    ],
    ids=str,
)
def test_other_transposed_convolutions_are_left_alone(attributes: dict[str, object]) -> None:
    graph = transposed(16, 16, bias=False, **attributes)  # type: ignore[arg-type]
    assert all(rewrite(graph, [name]) is None for name in REWRITES)
    assert [node.op_type for node in graph.graph] == ["ConvTranspose", "Relu"]


@pytest.mark.parametrize(
    "attributes",
    [
        {"kernel": 3, "pads": [0] * 4},
        {"output_padding": [1, 1]},
        {"kernel": 5, "pads": [2, 2, 2, 2], "output_padding": [1, 1]},
    ],
    ids=str,
)
def test_those_that_do_more_than_double_or_have_larger_kernels_have_channels_last(
    attributes: dict[str, object],
) -> None:
    graph = transposed(16, 16, bias=False, **attributes)  # type: ignore[arg-type]
    assert [name for name in REWRITES if rewrite(graph, [name]) is not None] == [WHOLLY_NATIVE]


def test_attributes_may_be_told_that_are_so_by_default() -> None:
    """As PyTorch tells them."""
    scales = {"scales": np.array([1, 1, 2, 2], np.float32)}
    nearest = {"mode": "nearest", "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric"}
    shapes = {"a": (16, 16, 4, 4), "b": (16, 16, 3, 3), "c": (16, 16, 3, 3), "d": (3, 16, 5, 5)}
    weights = {name: np.ones(shape, np.float32) for name, shape in shapes.items()} | scales

    def graph(convolution: dict[str, object], transposed: dict[str, object]) -> ir.Model:
        double = {"strides": [2, 2], "pads": [1] * 4, **transposed}
        nodes = [
            helper.make_node("ConvTranspose", ["x", "a"], ["t"], name="a", **double),
            helper.make_node("Resize", ["t", "", "scales"], ["u"], name="grow", **nearest),
            helper.make_node("Conv", ["u", "b"], ["v"], name="b", pads=[1] * 4, **convolution),
            helper.make_node("Conv", ["v", "c"], ["w"], name="c", pads=[1] * 4, **convolution),
            helper.make_node("Conv", ["w", "d"], ["y"], name="d", pads=[2] * 4, **convolution),
        ]
        return make_graph(nodes, weights, 16, 3)

    usual = {"dilations": [1, 1], "group": 1, "auto_pad": "NOTSET"}
    plain, told = graph({}, {}), graph({"strides": [1, 1], **usual}, {"output_padding": [0, 0], **usual})
    found = {name: (rewrite(plain, [name]), rewrite(told, [name])) for name in REWRITES}
    for name, (one, other) in found.items():
        assert (one is None) == (other is None), name
        assert one is None or other is None or kinds(one) == kinds(other), name
    assert sum(one is not None for one, _ in found.values()) == 11


@pytest.mark.parametrize("axes", [[3], [3, 4]], ids=["lines", "volumes"])
@pytest.mark.parametrize("operator", ["Conv", "ConvTranspose"])
def test_convolutions_of_anything_but_pictures_are_left_alone(operator: str, axes: list[int]) -> None:
    """With attributes that are left out, and so tell nothing of how many axes there are."""
    shape = {1: [0, 0, -1], 2: [0, 0, 2, -1, 2]}[len(axes)]
    weights = {
        "shape": np.array(shape),
        "back": np.array([0, 0, 2, -1]),
        "w": np.ones((3, 3, *([2] * (len(shape) - 2))), np.float32),
        "b": np.ones(3, np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["other"], name="before"),
        helper.make_node(operator, ["other", "w", "b"], ["c"], name="convolve"),
        helper.make_node("Relu", ["c"], ["r"], name="active"),
        helper.make_node("Reshape", ["r", "back"], ["y"], name="after"),
    ]
    graph = make_graph(nodes, weights, 3, 3)
    assert all(rewrite(graph, [name]) is None for name in REWRITES)


def test_the_graph_that_is_rewritten_is_left_as_it_was() -> None:
    graph = transposed(2, 2, bias=True)
    rewritten(graph)
    assert [node.op_type for node in graph.graph] == ["ConvTranspose", "Relu"]
    assert set(graph.graph.initializers) == {"w", "b"}


def test_weights_that_nothing_uses_any_more_are_dropped() -> None:
    other = rewritten(transposed(2, 2, bias=True))
    assert set(other.graph.initializers) == {"grow/phases.weight", "grow/phases.bias"}


def test_every_rewrite_is_tried() -> None:
    assert {WHOLLY_NATIVE, *(name for step in STEPS for name in step)} == set(REWRITES)
    assert all(len(set(step)) == len(step) for step in STEPS)


def test_what_is_not_tried_everywhere_is_a_rewrite() -> None:
    assert NATIVE < set(ONLY_ON) < set(REWRITES)
    assert set(ONLY_IN) < set(ONLY_ON)
    assert {name for name in REWRITES if name.endswith("-to-native")} == NATIVE

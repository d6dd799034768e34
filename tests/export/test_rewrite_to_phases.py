# SPDX-License-Identifier: Apache-2.0
"""Whatever the kernel, stride, border and groups of a transposed convolution, its phases are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from gantk.export.rewrites.phases import transposed_to_phases

onnxruntime = pytest.importorskip("onnxruntime")


def network(weight: np.ndarray, bias: np.ndarray | None, **attributes: Any) -> onnx.ModelProto:
    weights = [
        numpy_helper.from_array(array, name)
        for name, array in (("w", weight), ("b", bias))
        if array is not None
    ]
    node = helper.make_node(
        "ConvTranspose", ["x", *(tensor.name for tensor in weights)], ["y"], "up", **attributes
    )
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", channels, *([None] * (weight.ndim - 2))])
        for name, channels in (("x", weight.shape[0]), ("y", None))
    )
    proto = helper.make_model(
        helper.make_graph([node], "g", [x], [y], weights),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    return onnx.shape_inference.infer_shapes(proto)


def run(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def turned(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    graph = ir.from_proto(proto)
    return ir.to_proto(graph) if transposed_to_phases(graph) else None


pair = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(
    kernel=pair,
    stride=st.integers(1, 4),
    pads=st.lists(st.integers(0, 3), min_size=4, max_size=4),
    extra=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    group=st.sampled_from([1, 1, 2]),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    seed=st.integers(0, 99),
)
@settings(max_examples=150, deadline=None)
@example((3, 3), 2, [1, 1, 1, 1], (1, 1), (1, 1), 1, (5, 4), 0)  # CycleGAN's
@example((4, 4), 1, [0, 0, 0, 0], (0, 0), (1, 1), 1, (1, 1), 0)  # DCGAN's first
@example((4, 4), 2, [1, 1, 1, 1], (0, 0), (1, 1), 2, (3, 3), 0)
@example((4, 4), 2, [0, 0, 0, 0], (1, 1), (1, 1), 1, (3, 3), 1)  # A row and a column of the bias alone.
def test_phases_are_the_same(
    kernel: tuple[int, int],
    stride: int,
    pads: list[int],
    extra: tuple[int, int],
    dilations: tuple[int, int],
    group: int,
    size: tuple[int, int],
    seed: int,
) -> None:
    for axis in range(2):
        left = stride * (size[axis] - 1) + dilations[axis] * (kernel[axis] - 1) + 1 + extra[axis]
        assume(left > pads[axis] + pads[axis + 2])
        assume(extra[axis] < stride)  # ONNX Runtime wants that.
    random = np.random.default_rng(seed)
    weight = random.standard_normal((4, 6 // group, *kernel)).astype(np.float32)
    bias = None if seed % 3 == 0 else random.standard_normal(6).astype(np.float32)
    x = random.standard_normal((2, 4, *size)).astype(np.float32)
    proto = network(
        weight, bias, strides=[stride] * 2, pads=pads, output_padding=extra, dilations=dilations, group=group
    )
    new = turned(proto)
    assert new is not None
    assert "ConvTranspose" not in {node.op_type for node in new.graph.node}
    found, right = run(new, x), run(proto, x)
    assert found.shape == right.shape
    np.testing.assert_allclose(found, right, rtol=1e-4, atol=1e-4)


def test_nothing_is_cut_where_the_border_can_be_left_out() -> None:
    new = turned(network(np.ones((4, 6, 3, 3), np.float32), None, pads=[1, 1, 1, 1]))
    assert new is not None
    assert [node.op_type for node in new.graph.node] == ["Conv"]


def test_a_bias_that_is_computed_cannot_be_laid_out() -> None:
    proto = network(np.ones((4, 6, 4, 4), np.float32), np.ones(6, np.float32), strides=[2, 2])
    proto.graph.node.insert(0, helper.make_node("Neg", ["b"], ["c"]))
    proto.graph.node[1].input[2] = "c"
    assert turned(proto) is None


@pytest.mark.parametrize(
    ("shape", "attributes"),
    [
        ((4, 6, 3, 3), {"strides": [2, 1]}),
        ((4, 6, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        ((4, 6, 3, 3), {"output_shape": [8, 8], "strides": [2, 2]}),
        ((4, 6, 3), {"strides": [2]}),
    ],
)
def test_others_are_left_alone(shape: tuple[int, ...], attributes: dict[str, Any]) -> None:
    assert turned(network(np.ones(shape, np.float32), None, **attributes)) is None

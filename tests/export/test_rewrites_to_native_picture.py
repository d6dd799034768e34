# SPDX-License-Identifier: Apache-2.0
"""The last layer of a generator as gantk's function: proven equal, by its body, to what it replaces."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from export_graphs import close, kinds, picture, run
from gantk.export.precision import convert
from gantk.export.rewrites import rewrite

NATIVE = "picture-to-native"


def generator(
    channels: int = 8,
    made: int = 3,
    *,
    before: str = "ConvTranspose",
    bias: bool = True,
    last_bias: bool = False,
    ends: tuple[str, ...] = ("Relu", "Tanh"),
    kernel: int = 4,
    shown: str = "",
    seed: int = 0,
    **attributes: object,
) -> ir.Model:
    """The last two layers.

    Args:
        channels: Between the two.
        made: Of the picture.
        before: The operator of the first, whose kernel is of 4 x 4.
        bias: Whether it has one.
        last_bias: The same of the last.
        ends: The operators after the two.
        kernel: Of the last.
        shown: A value that is an output too.
        seed: Of the weights.
        attributes: Of the last.
    """
    random = np.random.default_rng(seed)
    first = (3, channels, 4, 4) if before == "ConvTranspose" else (channels, 3, 4, 4)
    group = int(attributes.get("group", 1))  # type: ignore[call-overload]
    weights = {
        "first": random.standard_normal(first),
        **({"b": random.standard_normal(channels)} if bias else {}),
        "last": random.standard_normal((channels, made // group, kernel, kernel)) / channels,
        **({"c": random.standard_normal(made)} if last_bias else {}),
    }
    attributes = {"strides": [2, 2], "pads": [1, 1, 1, 1], **attributes}
    nodes = [
        helper.make_node(before, ["x", "first", *(["b"] if bias else [])], ["s"], pads=[1, 1, 1, 1]),
        helper.make_node(ends[0], ["s"], ["a"]),
        helper.make_node(
            "ConvTranspose", ["a", "last", *(["c"] if last_bias else [])], ["t"], name="last", **attributes
        ),
        helper.make_node(ends[1], ["t"], ["y"]),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", made, "P", "Q"])]
    if shown:
        outputs.append(helper.make_tensor_value_info(shown, TensorProto.FLOAT, ["N", None, None, None]))
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, "H", "W"])],
        outputs,
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    channels=st.sampled_from([8, 16, 24]),
    made=st.integers(1, 8),
    before=st.sampled_from(["ConvTranspose", "Conv"]),
    bias=st.booleans(),
    last_bias=st.booleans(),
    shown=st.sampled_from(["", "s", "a"]),
    height=st.integers(4, 7),
    seed=st.integers(0, 9),
)
def test_it_equals_what_it_replaces(
    channels: int, made: int, before: str, bias: bool, last_bias: bool, shown: str, height: int, seed: int
) -> None:
    graph = generator(channels, made, before=before, bias=bias, last_bias=last_bias, shown=shown, seed=seed)
    other = rewrite(graph, [NATIVE])
    assert other is not None
    x = picture(2, 3, height, 5, seed)
    close(run(other, x), run(graph, x), 2e-6)


@pytest.mark.parametrize(("shown", "kept"), [("", 2), ("s", 3), ("a", 3)])
def test_the_bias_before_goes_where_nothing_else_reads_it(shown: str, kept: int) -> None:
    other = rewrite(generator(shown=shown), [NATIVE])
    assert other is not None
    (node,) = (node for node in other.graph if node.op_type == "ToPicture")
    (first,) = (node for node in other.graph if node.op_type == "ConvTranspose")
    assert len(first.inputs) == kept
    before = node.inputs[1]
    assert before is not None and before.const_value is not None
    assert bool(before.const_value.numpy().any()) == (kept == 2)
    assert set(kinds(other)) == {"ConvTranspose", "Transpose", "ToPicture"} | (
        {"Relu"} if shown == "a" else set()
    )


def test_in_half_precision_biases_stay_in_float32() -> None:
    graph = generator(last_bias=True)
    other = rewrite(graph, [NATIVE, "bias-relu-to-native"]) or rewrite(graph, [NATIVE])
    assert other is not None
    half = convert(other, "fp16")
    (node,) = (node for node in half.graph if node.op_type == "ToPicture")
    found = [value.dtype for value in node.inputs[1:] if value is not None]
    assert found == [ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.FLOAT]
    x = picture(2, 3, 6, 5)
    close(run(half, x), run(graph, x), 2e-2)


@pytest.mark.parametrize(
    "graph",
    [
        generator(12),
        generator(16, 9),
        generator(ends=("Relu", "Sigmoid")),
        generator(ends=("LeakyRelu", "Tanh")),
        generator(kernel=3),
        generator(strides=[1, 1]),
        generator(pads=[0, 0, 0, 0]),
        generator(pads=[0, 0, 0, 0], auto_pad="SAME_UPPER"),
        generator(output_padding=[1, 0]),
        generator(dilations=[2, 2]),
        generator(made=4, group=2),
        generator(shown="t"),
    ],
    ids=lambda _: "",
)
def test_other_layers_stay_as_they_are(graph: ir.Model) -> None:
    assert rewrite(graph, [NATIVE]) is None

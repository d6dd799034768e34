# SPDX-License-Identifier: Apache-2.0
"""The rewrites to gantk's functions, each proven equal to what it replaces, by the functions' bodies."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export_graphs import kinds, make_graph, picture, run
from gantk.export.functions import DOMAIN
from gantk.export.rewrites import rewrite

BORDERS = {"reflect": "ReflectedConvolution3x3", "": "Convolution3x3"}


def convolved(
    *,
    inputs: int = 16,
    outputs: int = 17,
    mode: str = "reflect",
    pad: int = 1,
    kernel: int = 3,
    bias: bool = True,
    enlarge: bool = False,
    after: str = "Tanh",
    convolution: dict[str, Any] | None = None,
) -> ir.Model:
    """A convolution with a border of its own (`mode` is empty) or by a padding, maybe of an enlargement."""
    random = np.random.default_rng(inputs + outputs)
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": np.array([0, 0, pad, pad, 0, 0, pad, pad]),
        "w": random.standard_normal((outputs, inputs, kernel, kernel)).astype(np.float32),
        "b": random.standard_normal(outputs).astype(np.float32),
    }
    nearest = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if enlarge:
        steps.append(("Resize", ["", "scales"], nearest))
    if mode:
        steps.append(("Pad", ["pads"], {"mode": mode}))
    own = {} if mode else {"pads": [pad] * 4}
    steps.append(("Conv", ["w", "b"] if bias else ["w"], {**own, **(convolution or {})}))
    steps.append((after, [], {}))
    value, nodes = "x", []
    for index, (kind, rest, attributes) in enumerate(steps):
        made = "y" if index == len(steps) - 1 else f"t{index}"
        nodes.append(helper.make_node(kind, [value, *rest], [made], name=f"{kind}{index}", **attributes))
        value = made
    used = {name for node in nodes for name in node.input}
    return make_graph(nodes, {name: a for name, a in weights.items() if name in used}, inputs, outputs)


def functions(graph: ir.Model) -> list[str]:
    called = [node.op_type for node in graph.graph if node.domain == DOMAIN]
    assert {name for _, name, _ in graph.functions} == set(called)
    return called


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    inputs=st.integers(16, 18),
    outputs=st.integers(16, 18),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    mode=st.sampled_from(["reflect", ""]),
    bias=st.booleans(),
    after=st.sampled_from(["Relu", "Tanh"]),
)
def test_a_function_equals_the_convolution(
    batch: int, inputs: int, outputs: int, height: int, width: int, mode: str, bias: bool, after: str
) -> None:
    graph = convolved(inputs=inputs, outputs=outputs, mode=mode, bias=bias, after=after)
    other = rewrite(graph, ["convolution-to-native"])
    assert other is not None
    relu = "Relu" if after == "Relu" and not mode else ""
    assert functions(other) == [BORDERS[mode] + relu]
    x = picture(batch, inputs, height, width)
    np.testing.assert_array_equal(run(other, x), run(graph, x))


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 2),
    inputs=st.integers(16, 18),
    outputs=st.integers(16, 18),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    mode=st.sampled_from(["reflect", "edge", "constant", ""]),
    bias=st.booleans(),
)
def test_a_function_equals_an_enlargement_and_its_convolution(
    batch: int, inputs: int, outputs: int, height: int, width: int, mode: str, bias: bool
) -> None:
    graph = convolved(inputs=inputs, outputs=outputs, mode=mode, bias=bias, enlarge=True)
    other = rewrite(graph, ["enlarged-to-native"])
    assert other is not None
    assert functions(other) == ["TransposedConvolution4x4"]
    x = picture(batch, inputs, height, width)
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=2e-5)


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": 15},
        {"outputs": 15},
        {"kernel": 5, "pad": 2},
        {"pad": 2},
        {"mode": "edge"},
        {"mode": "", "pad": 0},
        {"convolution": {"pads": [1, 1, 1, 1]}},
        {"convolution": {"strides": [2, 2]}},
        {"convolution": {"dilations": [2, 2]}},
        {"convolution": {"auto_pad": "SAME_UPPER"}},
    ],
    ids=str,
)
def test_other_convolutions_are_left_alone(change: dict[str, Any]) -> None:
    graph = convolved(**change)
    other = rewrite(graph, ["convolution-to-native"])
    # A border of zeros on top of another is still one of zeros.
    if change == {"convolution": {"pads": [1, 1, 1, 1]}}:
        assert other is not None
        assert kinds(other) == ["Pad", "Convolution3x3", "Tanh"]
        x = picture(1, 16, 5, 4)
        np.testing.assert_array_equal(run(other, x), run(graph, x))
    else:
        assert other is None


@pytest.mark.parametrize("few", ["inputs", "outputs"])
def test_enlargements_of_few_channels_are_left_alone(few: str) -> None:
    graph = convolved(**{few: 15}, enlarge=True)
    assert rewrite(graph, ["enlarged-to-native"]) is None
    assert rewrite(convolved(**{few: 16}, enlarge=True), ["enlarged-to-native"]) is not None


def test_a_padding_that_something_else_needs_stays() -> None:
    graph = convolved()
    (padded,) = graph.graph[0].outputs
    extra = ir.node("ReduceMean", [padded], name="mean")
    extra.outputs[0].name, extra.outputs[0].type = "mean", ir.TensorType(ir.DataType.FLOAT)
    graph.graph.append(extra)
    graph.graph.outputs.append(extra.outputs[0])
    assert rewrite(graph, ["convolution-to-native"]) is None


@pytest.mark.parametrize("mode", ["reflect", ""])
def test_evenness_is_seen_through_functions(mode: str) -> None:
    """An enlargement, a convolution, and one that paints."""
    random = np.random.default_rng(0)
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "v": random.standard_normal((16, 16, 3, 3)).astype(np.float32),
        "w": random.standard_normal((3, 16, 3, 3)).astype(np.float32),
    }
    nearest = {"coordinate_transformation_mode": "asymmetric", "mode": "nearest", "nearest_mode": "floor"}
    own = {} if mode else {"pads": [1, 1, 1, 1]}
    nodes, value = (
        [helper.make_node("Resize", ["x", "", "scales"], ["large"], name="grow", **nearest)],
        "large",
    )
    for index, weight in enumerate("vvw"):
        if mode:
            nodes.append(helper.make_node("Pad", [value, "pads"], [f"p{index}"], name=f"p{index}", mode=mode))
            value = f"p{index}"
        made = "y" if index == 2 else f"t{index}"
        nodes.append(helper.make_node("Conv", [value, weight], [made], name=f"c{index}", **own))
        value = made
    used = {name for node in nodes for name in node.input}
    graph = make_graph(nodes, {name: a for name, a in weights.items() if name in used}, 16, 3)
    other = rewrite(graph, ["enlarged-to-native", "convolution-to-native", "narrow-to-phases"])
    assert other is not None
    assert functions(other) == ["TransposedConvolution4x4", BORDERS[mode]]
    assert "DepthToSpace" in kinds(other)
    x = picture(2, 16, 5, 3)
    expected = run(graph, x)
    np.testing.assert_allclose(run(other, x), expected, atol=1e-5 * np.abs(expected).max())

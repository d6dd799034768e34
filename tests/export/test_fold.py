# SPDX-License-Identifier: Apache-2.0
"""Scales move into convolutions, and only where that changes nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import helper

from export_graphs import kinds, make_graph, picture, run
from gantk.export.fold import SCALED, fold_scales

WEIGHTS = {
    "k": np.float32(1 / 255),
    "vector": np.array([1, 2, 3], np.float32).reshape(1, 3, 1, 1),
    "pads": np.array([0, 0, 2, 2, 0, 0, 2, 2]),
    "one": np.float32(1.0),
    "starts": np.array([1]),
    "ends": np.array([-1]),
    "axes": np.array([2]),
    "w": np.random.default_rng(0).standard_normal((3, 3, 3, 3)).astype(np.float32),
    "b": np.random.default_rng(1).standard_normal(3).astype(np.float32),
}
STEPS = {
    "scale": ("Mul", ["k"], {}),
    "scales": ("Mul", ["vector"], {}),
    "reflect": ("Pad", ["pads"], {"mode": "reflect"}),
    "ones": ("Pad", ["pads", "one"], {"mode": "constant"}),
    "turn": ("Transpose", [], {"perm": [0, 1, 3, 2]}),
    "crop": ("Slice", ["starts", "ends", "axes"], {}),
    "relu": ("Relu", [], {}),
    "conv": ("Conv", ["w", "b"], {}),
    "bare": ("Conv", ["w"], {}),
}


def chain(*steps: str) -> ir.Model:
    value, nodes = "x", []
    for index, step in enumerate(steps):
        kind, rest, attributes = STEPS[step]
        output = "y" if index == len(steps) - 1 else f"t{index}"
        nodes.append(helper.make_node(kind, [value, *rest], [output], name=f"{step}{index}", **attributes))
        value = output
    used = {name for node in nodes for name in node.input}
    return make_graph(nodes, {name: array for name, array in WEIGHTS.items() if name in used}, 3, 3)


@pytest.mark.parametrize(
    "steps",
    [
        ("scale", "conv"),
        ("scale", "turn", "reflect", "conv", "relu"),
        ("conv", "scale"),
        ("conv", "crop", "turn", "scale", "relu"),
        ("scale", "reflect", "conv", "crop", "scale"),
        ("scale", "bare"),
        ("bare", "scale"),
    ],
    ids="-".join,
)
def test_a_scale_goes_into_the_convolution_in_reach(steps: tuple[str, ...]) -> None:
    graph, other = chain(*steps), chain(*steps)
    assert fold_scales(other) == steps.count("scale")
    assert "Mul" not in kinds(other)
    assert all(value.uses() for value in other.graph.initializers.values())
    x = 255 * picture(2, 3, 9, 8)
    expected = run(graph, x)
    np.testing.assert_allclose(run(other, x), expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize(
    "steps",
    [
        ("scale", "relu", "conv"),
        ("scale", "ones", "conv"),
        ("scales", "conv"),
        ("conv", "relu", "scale"),
        ("conv", "ones", "scale"),
        ("scale",),
    ],
    ids="-".join,
)
def test_other_scales_stay(steps: tuple[str, ...]) -> None:
    graph = chain(*steps)
    assert fold_scales(graph) == 0
    assert kinds(graph) == kinds(chain(*steps))


@pytest.mark.parametrize("steps", [("scale", "conv"), ("conv", "scale")], ids="-".join)
@pytest.mark.parametrize("index", [1, 2])
def test_a_scale_stays_beside_weights_that_are_computed(steps: tuple[str, ...], index: int) -> None:
    graph = chain(*steps)
    convolution = next(node for node in graph.graph if node.op_type == "Conv")
    made = ir.node("Neg", [convolution.inputs[index]], name="made")
    made.outputs[0].name = "computed"
    graph.graph.insert_before(graph.graph[0], made)
    convolution.replace_input_with(index, made.outputs[0])
    assert fold_scales(graph) == 0


def test_a_scale_stays_whose_convolution_others_use_too() -> None:
    graph = chain("conv", "scale")
    value = graph.graph[0].outputs[0]
    graph.graph.outputs.append(value)
    assert fold_scales(graph) == 0


@pytest.mark.parametrize("order", [["c", "t"], ["t", "c"]], ids=str)
@pytest.mark.parametrize("convolved", [True, False])
def test_a_scale_stays_that_others_read_too(order: list[str], convolved: bool) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "k"], ["t"], name="scale"),
        helper.make_node("Conv", ["t" if convolved else "x", "w"], ["c"], name="conv", pads=[1] * 4),
        helper.make_node("Sub", order, ["y"], name="join"),
    ]
    graph = make_graph(nodes, {name: WEIGHTS[name] for name in "kw"}, 3, 3)
    assert fold_scales(graph) == 0


def test_tensors_that_hold_another_multiple_say_so() -> None:
    graph = chain("scale", "reflect", "conv", "crop", "scale", "relu")
    fold_scales(graph)
    names = {node.op_type: node.outputs[0].name for node in graph.graph}
    assert names == {"Pad": f"t1{SCALED}", "Conv": f"t2{SCALED}", "Slice": "t4", "Relu": "y"}


@pytest.mark.parametrize("scales", [(0.5, 0.5), (3.0, 0.2)], ids=str)
def test_convolutions_that_share_weights_have_each_its_own_scale(scales: tuple[float, float]) -> None:
    nodes = [
        helper.make_node("Mul", ["x", "before"], ["t"], name="before"),
        helper.make_node("Conv", ["t", "w", "b"], ["u"], name="first"),
        helper.make_node("Relu", ["u"], ["v"], name="between"),
        helper.make_node("Conv", ["v", "w", "b"], ["z"], name="second"),
        helper.make_node("Mul", ["z", "after"], ["y"], name="after"),
    ]
    weights = {name: WEIGHTS[name] for name in "wb"}
    weights |= {name: np.float32(scale) for name, scale in zip(("before", "after"), scales, strict=True)}
    graph, other = make_graph(nodes, weights, 3, 3), make_graph(nodes, weights, 3, 3)
    assert fold_scales(other) == 2
    x = picture(2, 3, 9, 8)
    expected = run(graph, x)
    np.testing.assert_allclose(run(other, x), expected, atol=1e-5 * np.abs(expected).max())

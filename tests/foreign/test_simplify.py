# SPDX-License-Identifier: Apache-2.0
"""Files from elsewhere are simplified without a change of what they compute."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from export_graphs import kinds
from gantk.export.foreign.simplify import simplify

pytest.importorskip("onnxscript")

SHAPE = (2, 3, 2, 2)


def network(nodes: list[onnx.NodeProto], **weights: np.ndarray | float) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, SHAPE)],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def computed(proto: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    (made,) = ReferenceEvaluator(proto).run(None, {"x": x})
    return np.asarray(made)


@pytest.mark.parametrize("as_node", [False, True])
def test_what_keeps_a_root_from_zero_stays(*, as_node: bool) -> None:
    """The pixel normalisation of progressive GANs, of a pixel without any colour."""
    nodes = [
        helper.make_node("Mul", ["x", "x"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[1]),
        helper.make_node("Add", ["mean", "epsilon"], ["more"]),
        helper.make_node("Sqrt", ["more"], ["root"]),
        helper.make_node("Div", ["x", "root"], ["y"]),
    ]
    if as_node:
        value = numpy_helper.from_array(np.float32(1e-8))
        proto = network([helper.make_node("Constant", [], ["epsilon"], value=value), *nodes])
    else:
        proto = network(nodes, epsilon=1e-8)
    made = ir.to_proto(simplify(proto, "small"))
    x = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
    x[0, :, 0, 0] = 0
    assert [each.name for each in made.graph.input] == ["x"]
    np.testing.assert_array_equal(computed(made, x), computed(proto, x))


@pytest.mark.parametrize(
    ("kind", "number"), [("Add", 1e-8), ("Sub", -9e-9), ("Mul", 1.000005), ("Div", 0.999995)]
)
def test_what_changes_little_changes_it(kind: str, number: float) -> None:
    proto = network([helper.make_node(kind, ["x", "c"], ["y"])], c=number)
    made = ir.to_proto(simplify(proto, "small"))
    x = np.full(SHAPE, 3e-8 if kind in ("Add", "Sub") else 3.0, np.float32)
    assert (computed(made, x) != x).all()
    np.testing.assert_array_equal(computed(made, x), computed(proto, x))


@pytest.mark.parametrize(("kind", "number"), [("Add", 0.0), ("Sub", 0.0), ("Mul", 1.0), ("Div", 1.0)])
def test_what_changes_nothing_goes(kind: str, number: float) -> None:
    nodes = [helper.make_node(kind, ["x", "c"], ["same"]), helper.make_node("Relu", ["same"], ["y"])]
    assert kinds(simplify(network(nodes, c=number), "small")) == ["Relu"]


def test_weights_are_computed_with_it() -> None:
    """As those that are normalised, of StyleGAN2 for one."""
    nodes = [
        helper.make_node("Mul", ["w", "w"], ["squares"]),
        helper.make_node("ReduceMean", ["squares"], ["mean"], axes=[1]),
        helper.make_node("Add", ["mean", "epsilon"], ["more"]),
        helper.make_node("Sqrt", ["more"], ["root"]),
        helper.make_node("Div", ["w", "root"], ["normal"]),
        helper.make_node("Mul", ["x", "normal"], ["y"]),
    ]
    weights = np.random.default_rng(1).standard_normal((1, 3, 1, 1)).astype(np.float32)
    proto = network(nodes, w=weights, epsilon=1e-8)
    graph = simplify(proto, "small")
    assert kinds(graph) == ["Mul"]
    x = np.random.default_rng(2).standard_normal(SHAPE).astype(np.float32)
    np.testing.assert_allclose(computed(ir.to_proto(graph), x), computed(proto, x), rtol=1e-6)

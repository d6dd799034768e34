# SPDX-License-Identifier: Apache-2.0
"""Sums over a picture overflow in fp16; kept in float32 they do not, and TensorRT keeps them there.

No CPU backend computes in fp16, so ONNX's reference evaluator does, which rounds every tensor as its type says.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

import export_graphs
from gantk.export import functions, precision
from gantk.export.engines.audit import audit
from gantk.export.engines.network import parse
from gantk.runtime.product_log import log
from gantk.runtime.products import Product, load

SIDE = 64

INSTANCE_NORM = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["y"], name="norm")
SUM = helper.make_node("ReduceSum", ["x", "axes"], ["y"], name="sum")
WEIGHTS = {
    "norm": {"scale": np.ones(4, np.float32), "bias": np.zeros(4, np.float32)},
    "sum": {"axes": np.array([2, 3], np.int64)},
}


def picture(spread: float) -> np.ndarray:
    """Features (1, 4, 64, 64) that fp16 holds with ease."""
    values = np.random.default_rng(0).standard_normal((1, 4, SIDE, SIDE)) * spread + spread
    return values.astype(np.float32)


def evaluate(proto: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return ReferenceEvaluator(proto).run(None, feeds)


@pytest.mark.parametrize(("node", "spread"), [(INSTANCE_NORM, 400.0), (SUM, 30.0)], ids=["norm", "sum"])
def test_an_operator_that_sums_overflows_without_its_island(
    node: onnx.NodeProto, spread: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = export_graphs.make_graph([node], WEIGHTS[node.name], 4, 4)
    x = picture(spread)
    (wanted,) = evaluate(ir.to_proto(graph), {"x": x})
    (with_island,) = evaluate(ir.to_proto(precision.convert(graph, "fp16")), {"x": x})
    np.testing.assert_allclose(with_island, wanted, rtol=2e-3, atol=2e-3)
    monkeypatch.setattr(precision, "FP32_ISLANDS", frozenset())
    (without,) = evaluate(ir.to_proto(precision.convert(graph, "fp16")), {"x": x})
    # An infinite variance makes a picture of one colour, an infinite sum an infinity.
    assert not np.isfinite(without).all() or np.ptp(without) < 0.01 * np.ptp(wanted)


@pytest.mark.parametrize(
    ("function", "inputs", "outputs"),
    [("GramMatrix", ["x"], ["y"]), ("TotalVariation", ["x"], ["y", "slope"])],
)
def test_a_function_that_sums_overflows_without_its_casts(
    function: str, inputs: list[str], outputs: list[str]
) -> None:
    (body,) = (body for body in functions.bodies(20, "l2") if body.name == function)
    bare = onnx.FunctionProto()
    bare.CopyFrom(body)
    for node in bare.node:
        if node.op_type == "Cast" and node.output[0] == "wide":
            node.op_type = "Identity"
            del node.attribute[:]
        elif node.op_type == "Cast":  # What scales must then have the features' type too.
            node.attribute[0].i = TensorProto.FLOAT16
        elif node.op_type == "Constant" and node.output[0] == "given":
            node.attribute[0].CopyFrom(
                helper.make_attribute("value", helper.make_tensor("s", TensorProto.FLOAT16, [], [1.0]))
            )
    x = picture(40.0).astype(np.float16)
    attributes = {"scale": 1.0} if function == "GramMatrix" else {}
    call = helper.make_node(function, inputs, outputs, domain=functions.DOMAIN, **attributes)
    found = [evaluate(_model(call, outputs, used), {"x": x})[0].astype(np.float64) for used in (body, bare)]
    np.testing.assert_allclose(found[0], _reference(function, x.astype(np.float64)), rtol=1e-3)
    assert np.isinf(found[1]).any()


def _model(call: onnx.NodeProto, outputs: list[str], body: onnx.FunctionProto) -> onnx.ModelProto:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 4, SIDE, SIDE])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid(functions.DOMAIN, 1)]
    graph = helper.make_graph([call], "test", [given], values)
    return helper.make_model(graph, opset_imports=opsets, functions=[body])


def _reference(function: str, x: np.ndarray) -> np.ndarray:
    if function == "GramMatrix":
        rows = x.reshape(1, 4, -1)
        return rows @ rows.transpose(0, 2, 1)
    return np.array([sum(np.square(np.diff(x, axis=axis)).sum() for axis in (2, 3))])


@pytest.mark.parametrize("node", [INSTANCE_NORM, SUM], ids=["norm", "sum"])
def test_tensorrt_keeps_the_island(rtx: Product, node: onnx.NodeProto) -> None:
    trt = load(rtx)
    proto = ir.to_proto(precision.convert(export_graphs.make_graph([node], WEIGHTS[node.name], 4, 4), "fp16"))
    builder = trt.Builder(log(trt).logger)
    network = parse(trt, builder, proto.SerializeToString(), "x.onnx")
    kinds = {trt.LayerType.NORMALIZATION, trt.LayerType.REDUCE}
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    types = [layer.get_output(0).dtype for layer in layers if layer.type in kinds]
    assert types == [trt.DataType.FLOAT]
    assert "fp32" in audit(trt, network).layers

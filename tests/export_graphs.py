# SPDX-License-Identifier: Apache-2.0
"""Small ONNX graphs for the rewrites, and how they are run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model


def make_graph(
    nodes: Sequence[NodeProto],
    weights: Mapping[str, np.ndarray],
    inputs: int,
    outputs: int,
    sides: Sequence[int | str] = ("H", "W"),
    batch: int | str = "N",
) -> ir.Model:
    """From ``x``, float32 [batch, inputs, *sides], to ``y``, with `outputs` channels."""
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, inputs, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", "C", "P", "Q"])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))


def run(graph: ir.Model, x: np.ndarray, backend: str = "onnxruntime") -> np.ndarray:
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    with open_model(from_bytes(proto.SerializeToString()), backend) as runner:
        return runner.run({"x": x})["y"]


def picture(batch: int, channels: int, height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, channels, height, width)).astype(np.float32)


def close(found: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    assert np.abs(wanted).max() > 0.01, "the test wants values that differ"
    np.testing.assert_allclose(found, wanted, atol=tolerance * np.abs(wanted).max())


def kinds(graph: ir.Model) -> list[str]:
    return [node.op_type for node in graph.graph]

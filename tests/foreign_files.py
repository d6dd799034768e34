# SPDX-License-Identifier: Apache-2.0
"""ONNX files of a few nodes, as they come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gantk.runtime.model import Model, from_bytes


def file(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str] = ("N", 4),
    opset: int = 17,
    domain: str = "",
    **weights: Any,
) -> Model:
    """A file of one input ``x`` and one output ``y``, which floats are float32."""
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)
        for name, dims in (("x", shape), ("y", [None] * len(shape)))
    ]
    tensors = [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()]
    graph = helper.make_graph(nodes, "theirs", values[:1], values[1:], tensors)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return from_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


def node(kind: str, inputs: str, output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs.split(), [output], name=f"the {kind}", **attributes)


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def saved(tmp_path: Path, model: Model) -> Path:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(model.data)
    return path

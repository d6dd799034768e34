# SPDX-License-Identifier: Apache-2.0
"""From a graph to the bytes of an ONNX file that is understood alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir

import gantk
from gantk.errors import GantkError
from gantk.tensors import TensorSpec


def serialize(
    graph: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], facts: dict[str, Any]
) -> bytes:
    """The bytes of an ONNX file that is understood alone: checked, with its shapes inferred and gantk's metadata.

    Args:
        graph: The graph.
        inputs: Written to ``gantk.inputs``.
        outputs: Written to ``gantk.outputs``.
        facts: Further metadata, ``gantk.KEY``: JSON of the value.

    Raises:
        GantkError: The ONNX checker refuses the graph.
    """
    proto = ir.to_proto(graph)
    described = {
        "schema": 1,
        "inputs": [spec.to_json() for spec in inputs],
        "outputs": [spec.to_json() for spec in outputs],
        **facts,
    }
    onnx.helper.set_model_props(
        proto, {f"gantk.{key}": json.dumps(value) for key, value in described.items()}
    )
    proto.producer_name, proto.producer_version = "gantk", gantk.__version__
    try:
        proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GantkError(
            f"the ONNX checker refuses the graph: {str(error).strip().splitlines()[0]}"
        ) from error
    data: bytes = proto.SerializeToString(deterministic=True)
    return data

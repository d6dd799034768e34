# SPDX-License-Identifier: Apache-2.0
"""Whether two ONNX files are one graph with different weights."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest

import numpy as np
import onnx
from onnx import numpy_helper

FLOATS = (
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
    onnx.TensorProto.DOUBLE,
)
"""The types of weights. Other constants, such as shapes and axes, are part of what an engine was built as."""


def difference(before: bytes, after: bytes) -> str | None:
    """In what two files differ beside the values of their float weights, as the end of a sentence on the second.

    Args:
        before: An ONNX file.
        after: Another.

    Returns:
        The first weight or node that differs, in words; `None` where there is none.
    """
    models = [onnx.load_from_string(data) for data in (before, after)]
    weights = [_weights(model) for model in models]
    for name, tensor in weights[0].items():
        found = weights[1].get(name)
        if found is None:
            return f"lacks the weight `{name}`"
        if (found.data_type, list(found.dims)) != (tensor.data_type, list(tensor.dims)):
            return f"has `{name}` as {_told(found)}, not {_told(tensor)}"
        if tensor.data_type not in FLOATS and not _equal(tensor, found):
            return f"has other values in the constant `{name}`"
    extra = next((name for name in weights[1] if name not in weights[0]), None)
    if extra is not None:
        return f"has the weight `{extra}` too"
    for node, other in zip_longest(*map(_nodes, models)):
        if node != other:
            named = other or node
            return f"has another node where `{named.name}` ({named.op_type}) is"
    return None


def _weights(model: onnx.ModelProto) -> dict[str, onnx.TensorProto]:
    """By name, those that a node reads: an engine has no others."""
    read = {name for node in _nodes(model) for name in node.input}
    return {tensor.name: tensor for tensor in model.graph.initializer if tensor.name in read}


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    """Its nodes, those of its functions too, without what only tells where they came from."""
    for node in chain(model.graph.node, *(function.node for function in model.functions)):
        bare = onnx.NodeProto()
        bare.CopyFrom(node)
        bare.ClearField("metadata_props")
        bare.ClearField("doc_string")
        yield bare


def _told(tensor: onnx.TensorProto) -> str:
    return f"{onnx.TensorProto.DataType.Name(tensor.data_type).lower()} {list(tensor.dims)}"


def _equal(one: onnx.TensorProto, two: onnx.TensorProto) -> bool:
    return np.array_equal(numpy_helper.to_array(one), numpy_helper.to_array(two))

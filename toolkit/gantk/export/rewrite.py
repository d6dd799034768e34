# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of float32 graphs: the same function from other operators."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Float64 = NDArray[np.float64]


def transposed_to_subpixel(graph: ir.Model) -> int:
    """Turn transposed convolutions of kernel 4, stride 2, padding 1 into a 3x3 convolution and a depth-to-space.

    Output row 2i + a sums input rows i - 1 and i (a = 0) or i and i + 1 (a = 1), so each of the four phases is
    a 3x3 convolution with five zero taps (Shi et al., arXiv 1609.05158, section 2.2).

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        weight = _constant(node.inputs[1])
        if weight is None or not _doubles(node, weight):
            continue
        bias = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
        name = node.inputs[1].name if node.inputs[1] is not None else None
        inputs = [node.inputs[0], _weight(graph.graph, f"{name}.subpixel", _subpixel(weight))]
        if bias is not None:
            inputs.append(_weight(graph.graph, f"{name}.subpixel.bias", np.tile(bias, 4)))
        conv = ir.node(
            "Conv", inputs, {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, name=f"{node.name}/Conv"
        )
        spread = ir.node(
            "DepthToSpace",
            [conv.outputs[0]],
            {"blocksize": 2, "mode": "DCR"},
            name=f"{node.name}/DepthToSpace",
        )
        conv.outputs[0].name = f"{node.outputs[0].name}.phases"
        conv.outputs[0].type = node.outputs[0].type
        graph.graph.insert_before(node, [conv, spread])
        _copy_type(spread.outputs[0], node.outputs[0])
        node.outputs[0].replace_all_uses_with(spread.outputs[0], replace_graph_outputs=True)
        graph.graph.remove(node, safe=True)
        turned += 1
    _drop_unused_weights(graph.graph)
    return turned


REWRITES: dict[str, Callable[[ir.Model], int]] = {"transposed-to-subpixel": transposed_to_subpixel}
"""What may make a graph faster. Each is kept only where it is measured to: see `gantk.export.pipeline`."""


def rewrite(graph: ir.Model) -> tuple[ir.Model, tuple[str, ...]]:
    """Apply every rewrite to a copy of a graph.

    Returns:
        The copy, and the names of the rewrites that found something.
    """
    copy = ir.from_proto(ir.to_proto(graph))
    return copy, tuple(name for name, apply in REWRITES.items() if apply(copy))


def _doubles(node: ir.Node, weight: Float64) -> bool:
    """Whether a transposed convolution doubles height and width in the way that `_subpixel` expects."""
    return (
        weight.shape[2:] == (4, 4)
        and _ints(node, "strides") == [2, 2]
        and _ints(node, "pads") == [1, 1, 1, 1]
        and _ints(node, "dilations") in ([], [1, 1])
        and _ints(node, "output_padding") in ([], [0, 0])
        and _attribute(node, "group", 1) == 1
    )


def _subpixel(weight: Float64) -> Float64:
    """Weights (C_in, C_out, 4, 4) of the transposed convolution to (4 C_out, C_in, 3, 3), phase by phase."""
    taps = {
        0: {0: 3, 1: 1},
        1: {1: 2, 2: 0},
    }  # Of a phase: the tap of the 3x3 kernel, and the one it comes from.
    inputs, outputs = weight.shape[:2]
    phases = np.zeros((2, 2, outputs, inputs, 3, 3))
    for a, rows in taps.items():
        for b, columns in taps.items():
            for row, from_row in rows.items():
                for column, from_column in columns.items():
                    phases[a, b, :, :, row, column] = weight[:, :, from_row, from_column].T
    return phases.reshape(4 * outputs, inputs, 3, 3)


def _constant(value: ir.Value | None) -> Float64 | None:
    if value is None or value.const_value is None:
        return None
    array: Float64 = value.const_value.numpy().astype(np.float64)
    return array


def _weight(graph: ir.Graph, name: str, array: Float64) -> ir.Value:
    tensor = ir.Tensor(array.astype(np.float32), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
    graph.register_initializer(value)
    return value


def _copy_type(target: ir.Value, source: ir.Value) -> None:
    target.name, target.type, target.shape = source.name, source.type, source.shape


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _ints(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else []


def _drop_unused_weights(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]

# SPDX-License-Identifier: Apache-2.0
"""Convolutions of few channels, such as the colours of a picture, with channels of zeros beside them.

Tensor cores take float16 channels by the eight; for other numbers of them cuDNN has kernels that do without.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    TENSOR_CORE_CHANNELS,
    Float64,
    Replacement,
    attribute,
    constant,
    drop_unused_weights,
    has_computed_bias,
    ints,
    optional,
    padding_before,
)

_OUTPUTS = {"Conv": 0, "ConvTranspose": 1}
"""Of an operator's weights, the axis of the output channels."""


def narrow_to_eights(graph: ir.Model) -> int:
    """Let convolutions read eight channels where they read fewer, and make eight or sixteen where they make fewer.

    What is added is zero weights: their outputs are cut off again, and their inputs are zeros. Fewer than sixteen
    outputs are the four phases of few channels, as other rewrites leave them.

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type in _OUTPUTS]:
        weight, bias = constant(node.inputs[1]), constant(optional(node, 2))
        if weight is None or has_computed_bias(node) or not _is_plain(node, weight):
            continue
        outputs, inputs = _missing(node.op_type, weight)
        if outputs or inputs:
            _turn(graph.graph, node, weight, bias, outputs, inputs)
            turned += 1
    drop_unused_weights(graph.graph)
    return turned


def _is_plain(node: ir.Node, weight: Float64) -> bool:
    """Whether a convolution is one of planes, without groups or dilation; its stride and border may be any."""
    return weight.ndim == 4 and attribute(node, "group", 1) == 1 and ints(node, "dilations") in ([], [1, 1])


def _missing(operator: str, weight: Float64) -> tuple[int, int]:
    """How many output and input channels a convolution lacks; transposed ones are given no inputs."""
    outputs = weight.shape[_OUTPUTS[operator]]
    inputs = max(TENSOR_CORE_CHANNELS - weight.shape[1], 0) if operator == "Conv" else 0
    more = -outputs % TENSOR_CORE_CHANNELS if outputs < 2 * TENSOR_CORE_CHANNELS else 0
    return more, inputs


def _turn(
    graph: ir.Graph, node: ir.Node, weight: Float64, bias: Float64 | None, outputs: int, inputs: int
) -> None:
    """Put a convolution with so many more channels, and what cuts them off, in the place of another."""
    new = Replacement(graph, node)
    axis = _OUTPUTS[node.op_type]
    more = [(0, 0)] * 4
    more[axis], more[1 - axis] = (0, outputs), (0, inputs)
    weights = [new.weight("weight", np.pad(weight, more))]
    if bias is not None:
        weights.append(new.weight("bias", np.pad(bias, (0, outputs))))
    picture, replaced = _widened(new, node, inputs) if inputs else (node.inputs[0], (node,))
    value = new.add(node.op_type, [picture, *weights], "eights", **node.attributes)
    if outputs:
        cut = {"starts": [0], "ends": [weight.shape[axis]], "axes": [1]}
        bounds = [new.weight(name, np.array(numbers)) for name, numbers in cut.items()]
        value = new.add("Slice", [value, *bounds], "cut")
    new.finish(value, replaced)


def _widened(new: Replacement, node: ir.Node, inputs: int) -> tuple[ir.Value, tuple[ir.Node, ...]]:
    """What a convolution reads with so many more channels, and the nodes that this replaces.

    A border is put around after, for the picture is smaller before. What it has in the channels of zeros meets zero
    weights.
    """
    border = _border_before(node)
    picture = node.inputs[0] if border is None else border.inputs[0]
    amounts = new.weight("channels", np.array([0, 0, 0, 0, 0, inputs, 0, 0]))
    value = new.add("Pad", [picture, amounts], "channels", mode="constant")
    if border is None:
        return value, (node,)
    return new.add("Pad", [value, *border.inputs[1:]], "Pad", **border.attributes), (border, node)


def _border_before(node: ir.Node) -> ir.Node | None:
    """A padding for this convolution alone of nothing but height and width."""
    pad, amounts = padding_before(node) or (None, [])
    return pad if len(amounts) == 8 and not any(amounts[axis] for axis in (0, 1, 4, 5)) else None

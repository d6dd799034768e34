# SPDX-License-Identifier: Apache-2.0
"""A convolution with few outputs, such as the one that paints a picture, as a strided one with four times as many.

A convolution keeps an output channel in each lane of a SIMD register: three of them leave thirteen of sixteen
empty. Four neighbouring pixels of three channels fill twelve, for a kernel that is one pixel larger.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    SIMD_FLOATS,
    Float64,
    Replacement,
    attribute,
    constant,
    drop_unused_weights,
    enlargement,
    has_computed_bias,
    ints,
    is_simple,
    only_user,
    optional,
    padding,
)

_LATE = ("Relu", "Tanh", "Sigmoid", "Round", "Clip")
"""What may be done to pixels before they are spread out, four times as many to a register."""

_SAME_SIZE = ("Convolution3x3", "Convolution3x3Relu", "ReflectedConvolution3x3")
"""Functions of gantk's that keep the size."""

_DOUBLING = ("TransposedConvolution4x4", "TransposedConvolution4x4Relu")

_POINTWISE = ("Relu", "LeakyRelu", "Clip", "Tanh", "Sigmoid", "InstanceNormalization", "BatchNormalization")


def narrow_to_phases(graph: ir.Model) -> int:
    """Let each convolution with few outputs compute blocks of 2x2 pixels at stride 2, and spread them out after.

    Only where the height and the width of the output are even, whatever the input's size.

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "Conv"]:
        weight = constant(node.inputs[1])
        if weight is not None and _is_narrow(node, weight) and _is_even(node.outputs[0]):
            _turn(graph.graph, node, weight)
            turned += 1
    drop_unused_weights(graph.graph)
    return turned


def _is_narrow(node: ir.Node, weight: Float64) -> bool:
    return (
        is_simple(node)
        and not has_computed_bias(node)
        and 4 * len(weight) <= SIMD_FLOATS
        and min(weight.shape[2:]) > 1
    )


def _turn(graph: ir.Graph, node: ir.Node, weight: Float64) -> None:
    outputs, inputs, height, width = weight.shape
    kernel = np.zeros((2, 2, outputs, inputs, height + 1, width + 1))
    for a, b in np.ndindex(2, 2):
        kernel[a, b, :, :, a : a + height, b : b + width] = weight
    new = Replacement(graph, node)
    weights = [new.weight("weight", kernel.reshape(-1, *kernel.shape[3:]))]
    bias = constant(optional(node, 2))
    if bias is not None:
        weights.append(new.weight("bias", np.tile(bias, 4)))
    value = new.add(
        "Conv",
        [node.inputs[0], *weights],
        "phases",
        kernel_shape=[height + 1, width + 1],
        strides=[2, 2],
        pads=ints(node, "pads") or [0, 0, 0, 0],
    )
    crops, late = _after(node)
    for other in late:
        value = new.add(other.op_type, [value, *other.inputs[1:]], f"phases/{other.name}")
    new.finish(new.add("DepthToSpace", [value], "DepthToSpace", blocksize=2, mode="DCR"))
    if late:
        _take_out(graph, late, crops)


def _after(node: ir.Node) -> tuple[list[ir.Node], list[ir.Node]]:
    """The crops after a convolution, and the operators after these that look at each value alone."""
    crops: list[ir.Node] = []
    late: list[ir.Node] = []
    user = only_user(node.outputs[0])
    while user is not None and (user.op_type in _LATE or (user.op_type == "Slice" and not late)):
        (late if user.op_type in _LATE else crops).append(user)
        user = only_user(user.outputs[0])
    return crops, late


def _take_out(graph: ir.Graph, late: list[ir.Node], crops: list[ir.Node]) -> None:
    """Remove nodes whose work is done before now; the tensors before them hold other values, and say so."""
    before, after = late[0].inputs[0], late[-1].outputs[0]
    assert before is not None
    for value in (late[0].inputs[0], *(crop.inputs[0] for crop in crops)):
        assert value is not None
        value.name = f"{value.name}.done"
    name = after.name
    after.name, before.name = f"{name}.gone", name
    after.replace_all_uses_with(before, replace_graph_outputs=True)
    graph.remove(late, safe=True)


def _is_even(value: ir.Value | None) -> bool:
    """Whether height and width are even, whatever the size of the network's inputs."""
    if value is None:
        return False
    known = [size for size in (value.shape or ())[2:] if isinstance(size, int)]
    if len(known) == 2:
        return all(size % 2 == 0 for size in known)
    node = value.producer()
    return node is not None and _yields_even(node)


def _yields_even(node: ir.Node) -> bool:
    """Whether a node makes its output even, or keeps its input so."""
    kind = node.op_type
    if kind in _POINTWISE or kind in _SAME_SIZE:
        return _is_even(node.inputs[0])
    if kind in ("Add", "Mul"):
        # An even size is not 1: the other input has the same size, or is broadcast to it.
        return any(map(_is_even, node.inputs))
    if kind == "Resize":
        scales = enlargement(node)
        return scales is not None and all(scale % 2 == 0 for scale in scales[2:])
    if kind == "DepthToSpace":
        return attribute(node, "blocksize", 1) % 2 == 0
    if kind == "ConvTranspose":
        return _doubles(node)
    grows = _growth(node)
    keeps = grows is not None and not any(change % 2 for change in grows) and _is_even(node.inputs[0])
    return keeps or kind in _DOUBLING


def _growth(node: ir.Node) -> list[int] | None:
    """By how much height and width of what a padding, crop or convolution yields differ from its input's."""
    if (amounts := padding(node)) is not None:
        return [amounts[2] + amounts[6], amounts[3] + amounts[7]] if len(amounts) == 8 else None
    if node.op_type == "Slice":
        # Only crops as other rewrites make them here; what is left by others may depend on the input.
        bounds = [None if found is None else found.tolist() for found in map(constant, node.inputs[1:])]
        cropped = [n for n in (1, 2) if bounds == [[n, n], [-n, -n], [2, 3]]]
        return [-2 * cropped[0]] * 2 if cropped else None
    if node.op_type == "Conv" and is_simple(node) and (kernel := constant(node.inputs[1])) is not None:
        pads = ints(node, "pads") or [0, 0, 0, 0]
        return [pads[axis] + pads[axis + 2] - kernel.shape[2 + axis] + 1 for axis in (0, 1)]
    return None


def _doubles(node: ir.Node) -> bool:
    """Whether a transposed convolution of stride 2 yields an even size."""
    kernel, pads = constant(node.inputs[1]), ints(node, "pads") or [0, 0, 0, 0]
    if kernel is None or ints(node, "strides") != [2, 2] or ints(node, "dilations") not in ([], [1, 1]):
        return False
    if ints(node, "output_shape"):
        return False
    more = ints(node, "output_padding") or [0, 0]
    return all(
        (kernel.shape[2 + axis] + more[axis] - pads[axis] - pads[axis + 2]) % 2 == 0 for axis in (0, 1)
    )

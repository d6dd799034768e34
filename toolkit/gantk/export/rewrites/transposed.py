# SPDX-License-Identifier: Apache-2.0
"""Transposed convolutions as sub-pixel ones."""

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
    has_computed_bias,
    ints,
    is_explicit,
    only_user,
    optional,
)

# By phase: the taps of a kernel of 4 that meet its two inputs, in the order of these.
_TAPS = {0: [3, 1], 1: [2, 0]}
_ACTIVATIONS = ("Relu", "Tanh", "Sigmoid")


def transposed_to_subpixel(graph: ir.Model) -> int:
    """Turn transposed convolutions that double pictures (`doubling_kernel`) into four 2x2 ones and a depth-to-space.

    Output row 2i + a sums input rows i - 1 and i (a = 0) or i and i + 1 (a = 1), and columns alike, so each
    of the four phases of the output is a 2x2 convolution of the input (Shi et al., arXiv 1609.05158, section
    2.2). An activation that follows moves before the depth-to-space, where convolutions absorb it. Layers
    with few output channels are left to `narrow_transposed_to_subpixel`.

    Returns:
        The number of convolutions turned.
    """
    return _turn_all(graph, narrow=False)


def narrow_transposed_to_subpixel(graph: ir.Model) -> int:
    """The same for layers with few output channels, as the last one of a generator: one 3x3 convolution.

    Its four phases, with zero taps, fill one SIMD register, which four convolutions would leave mostly empty.

    Returns:
        The number of convolutions turned.
    """
    return _turn_all(graph, narrow=True)


def transposed_bias_apart(graph: ir.Model) -> int:
    """Add the bias of each transposed convolution after it, in a node of its own.

    ONNX Runtime has cuDNN add it, in a pass over the tensor that takes three times as long as its own.

    Returns:
        The number of convolutions that lost theirs.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        bias, weight = constant(optional(node, 2)), node.inputs[1]
        if bias is None or weight is None or weight.shape is None or len(weight.shape) != 4:
            continue
        new = Replacement(graph.graph, node)
        by_channel = new.weight("bias", bias.reshape(-1, 1, 1))
        sums = new.add("ConvTranspose", node.inputs[:2], "sums", **node.attributes)
        new.finish(new.add("Add", [sums, by_channel], "Add"))
        turned += 1
    drop_unused_weights(graph.graph)
    return turned


def _turn_all(graph: ir.Model, *, narrow: bool) -> int:
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        weight = doubling_kernel(node)
        if weight is None or has_computed_bias(node):
            continue
        if narrow == is_narrow(weight):
            _turn(graph.graph, node, weight, joint=narrow)
            turned += 1
    drop_unused_weights(graph.graph)
    return turned


def is_narrow(weight: Float64) -> bool:
    """Whether the four phases of all output channels of weights (C_in, C_out, 4, 4) fit into one SIMD register."""
    return bool(4 * weight.shape[1] <= SIMD_FLOATS)


def doubling_kernel(node: ir.Node, before: int = 1, after: int = 1) -> Float64 | None:
    """The kernel (C_in, C_out, 4, 4) of a transposed convolution of stride 2 with such pads, if there is one.

    With pads of one it doubles height and width. So do a kernel of 3 with an output padding, as CycleGAN has them
    (Zhu et al., arXiv 1703.10593), and one of 2 without pads, as U-Nets do: they are kernels of 4 with zeros. A kernel
    of 3 without pads, as StyleGAN2 has it (Karras et al., arXiv 1912.04958), is one with a pad of one before.

    Args:
        node: The convolution.
        before: Rows and columns that are taken off what the kernel of 4 makes, above and to the left.
        after: Below and to the right.

    Returns:
        The kernel, or `None` where the convolution is another one, or its weights are computed.
    """
    weight = constant(node.inputs[1])
    if weight is None or weight.ndim != 4 or attribute(node, "group", 1) != 1:
        return None
    if ints(node, "strides") != [2, 2] or ints(node, "dilations") not in ([], [1, 1]):
        return None
    if ints(node, "output_shape") or not is_explicit(node):
        return None
    pads, more = ints(node, "pads") or [0] * 4, ints(node, "output_padding") or [0, 0]
    zeros = [(0, 0), (0, 0)]
    for axis, size in enumerate(weight.shape[2:]):
        first = before - pads[axis]
        last = after - pads[axis + 2] + more[axis]
        if min(first, last) < 0 or first + size + last != 4:
            return None
        zeros.append((first, last))
    return np.pad(weight, zeros)


def _turn(graph: ir.Graph, node: ir.Node, weight: Float64, *, joint: bool) -> None:
    """Put the phases of a transposed convolution in its place."""
    bias = constant(optional(node, 2))
    activation = _activation_after(node)
    new = Replacement(graph, node)

    def convolve(name: str, kernel: Float64, offset: Float64 | None, pads: list[int]) -> ir.Value:
        parts = {"weight": kernel, "bias": offset}
        weights = [new.weight(f"{name}.{part}", a) for part, a in parts.items() if a is not None]
        value = new.add(
            "Conv", [node.inputs[0], *weights], name, kernel_shape=list(kernel.shape[2:]), pads=pads
        )
        return (
            value
            if activation is None
            else new.add(activation.op_type, [value], f"{name}/{activation.op_type}")
        )

    if joint:
        kernel, pads = subpixel_kernel(weight, 2, [1, 1])
        phases = convolve("phases", kernel, None if bias is None else np.tile(bias, 4), pads)
    else:
        parts = [
            convolve(f"phase{a}{b}", _phase(weight, a, b), bias, [1 - a, 1 - b, a, b])
            for a in (0, 1)
            for b in (0, 1)
        ]
        phases = new.add("Concat", parts, "phases", axis=1)
    spread = new.add("DepthToSpace", [phases], "DepthToSpace", blocksize=2, mode="DCR")
    new.finish(spread, (node,) if activation is None else (node, activation))


def _phase(weight: Float64, a: int, b: int) -> Float64:
    """Of weights (C_in, C_out, 4, 4), the kernel (C_out, C_in, 2, 2) of output rows 2i + a and columns 2j + b."""
    rows, columns = _TAPS[a], _TAPS[b]
    return weight[:, :, rows][:, :, :, columns].transpose(1, 0, 2, 3)


def subpixel_kernel(weight: Float64, stride: int, pads: list[int]) -> tuple[Float64, list[int]]:
    """All phases of a transposed convolution as one kernel, phase by phase, and the pads of its convolution.

    Output row s i + r sums input rows i + j, for all j for which the kernel has a row r + p - s j after a padding of p.

    Args:
        weight: (C_in, C_out, rows, columns).
        stride: s, of both axes: there are s x s phases.
        pads: p, above and to the left.
    """
    inputs, outputs, *sides = weight.shape
    before = [-((size - 1 - pad) // stride) for size, pad in zip(sides, pads, strict=True)]  # The first j.
    after = [(stride - 1 + pad) // stride for pad in pads]  # The last.
    taps = [last - first + 1 for first, last in zip(before, after, strict=True)]
    kernel = np.zeros((stride, stride, outputs, inputs, *taps))
    for row, column, y, x in np.ndindex(stride, stride, *taps):
        at = [
            phase + pad - stride * (first + tap)
            for phase, pad, first, tap in zip((row, column), pads, before, (y, x), strict=True)
        ]
        if all(0 <= place < size for place, size in zip(at, sides, strict=True)):
            kernel[row, column, :, :, y, x] = weight[:, :, at[0], at[1]].T
    return kernel.reshape(stride**2 * outputs, inputs, *taps), [-before[0], -before[1], *after]


def _activation_after(node: ir.Node) -> ir.Node | None:
    """The activation that alone uses a node's output."""
    user = only_user(node.outputs[0])
    return user if user is not None and user.op_type in _ACTIVATIONS else None

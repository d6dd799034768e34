# SPDX-License-Identifier: Apache-2.0
"""Any transposed convolution as one convolution that makes all of its phases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    Float64,
    Replacement,
    attribute,
    constant,
    drop_unused_weights,
    has_computed_bias,
    ints,
    is_explicit,
    optional,
)

_END = np.iinfo(np.int64).max


def transposed_to_phases(graph: ir.Model) -> int:
    """Turn transposed convolutions of pictures into convolutions and a depth-to-space, where the strides are the same.

    Before its border is cut off, output row s i + a of stride s sums input rows i - u by taps s u + a of the kernel:
    each phase a is a convolution of the input (Shi et al., arXiv 1609.05158, section 2.2). Kernels are filled up with
    zeros to whole multiples of s.

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        weight = constant(node.inputs[1])
        if weight is not None and _can_turn(node, weight):
            _turn(graph.graph, node, weight)
            turned += 1
    drop_unused_weights(graph.graph)
    return turned


def _can_turn(node: ir.Node, weight: Float64) -> bool:
    strides = ints(node, "strides") or [1, 1]
    return (
        weight.ndim == 4
        and strides[0] == strides[1]
        and is_explicit(node)
        and not ints(node, "output_shape")
        and not has_computed_bias(node)
    )


def _turn(graph: ir.Graph, node: ir.Node, weight: Float64) -> None:
    stride, group = (ints(node, "strides") or [1])[0], attribute(node, "group", 1)
    pads, extra = ints(node, "pads") or [0] * 4, ints(node, "output_padding") or [0, 0]
    weight = _dilated(weight, ints(node, "dilations") or [1, 1])
    taps = []  # Of the convolution, by axis.
    border, cut = [0] * 4, [0] * 4  # Before rows and columns, then after them.
    for axis, size in enumerate(weight.shape[2:]):
        taps.append(-(-size // stride))
        ends = pads[axis], stride * taps[axis] - size + pads[axis + 2] - extra[axis]
        for place, pixels in zip((axis, axis + 2), ends, strict=True):
            whole = min(pixels // stride, taps[axis] - 1)
            border[place], cut[place] = taps[axis] - 1 - whole, pixels - stride * whole
    new = Replacement(graph, node)
    weights = [new.weight("weight", _phases(weight, stride, group, taps))]
    bias = constant(optional(node, 2))
    if bias is not None:
        weights.append(new.weight("bias", np.repeat(bias, stride**2)))
    value = new.add("Conv", [node.inputs[0], *weights], "phases", kernel_shape=taps, pads=border, group=group)
    if stride > 1:
        value = new.add("DepthToSpace", [value], "DepthToSpace", blocksize=stride, mode="CRD")
    if any(cut):
        after = [-pixels if pixels else _END for pixels in cut[2:]]
        limits = [
            new.weight(name, np.array(a))
            for name, a in (("starts", cut[:2]), ("ends", after), ("axes", [2, 3]))
        ]
        value = new.add("Slice", [value, *limits], "Slice")
    new.finish(value)


def _dilated(weight: Float64, dilations: list[int]) -> Float64:
    """The kernel with the zeros between its taps."""
    sizes = [(size - 1) * step + 1 for size, step in zip(weight.shape[2:], dilations, strict=True)]
    wide = np.zeros((*weight.shape[:2], *sizes))
    wide[:, :, :: dilations[0], :: dilations[1]] = weight
    return wide


def _phases(weight: Float64, stride: int, group: int, taps: list[int]) -> Float64:
    """Of weights (C_in, C_out / group, kh, kw), the kernel (stride^2 C_out, C_in / group, *taps), phase by phase."""
    inputs, outputs, *sizes = weight.shape
    whole = np.zeros((inputs, outputs, *(stride * count for count in taps)))
    whole[:, :, : sizes[0], : sizes[1]] = weight
    # By tap and phase of rows and of columns; the last tap meets the first input.
    split = whole.reshape(group, inputs // group, outputs, taps[0], stride, taps[1], stride)[
        :, :, :, ::-1, :, ::-1
    ]
    return split.transpose(0, 2, 4, 6, 1, 3, 5).reshape(-1, inputs // group, *taps)

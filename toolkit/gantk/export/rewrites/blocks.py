# SPDX-License-Identifier: Apache-2.0
"""Wide convolutions that read or paint the few channels of a picture, as small ones of blocks of 4 x 4 pixels.

Tensor cores are given channels by the eight, and a picture has three. As blocks it has 48: a convolution of 9 x 9
pixels becomes one of 3 x 3 blocks, whose kernel holds the wide one at each of sixteen places, for 1.8 times the
operations.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    TENSOR_CORE_CHANNELS,
    Float64,
    Replacement,
    constant,
    drop_unused_weights,
    has_computed_bias,
    ints,
    is_simple,
    optional,
)

BLOCK = 4
ROUNDS_UP = "gantk.rounds_up"
"""The key of metadata of a padding that adds nothing but zeros below and to the right, up to whole blocks."""

WIDE = 5
"""The kernel from which blocks are tried: of smaller ones they multiply the operations."""


def narrow_to_blocks(graph: ir.Model) -> int:
    """Let each wide convolution with few inputs or few outputs compute blocks of pixels from blocks of pixels.

    A picture whose sides are no multiples of a block is filled up with zeros, and what these yield is cut off.

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "Conv"]:
        weight, bias = constant(node.inputs[1]), constant(optional(node, 2))
        if weight is None or has_computed_bias(node) or not is_simple(node):
            continue
        if min(weight.shape[2:]) >= WIDE and min(weight.shape[:2]) < TENSOR_CORE_CHANNELS:
            _turn(graph.graph, node, weight, bias)
            turned += 1
    drop_unused_weights(graph.graph)
    return turned


@dataclass(frozen=True)
class _Axis:
    """Height or width.

    Args:
        kernel: Of the convolution, in pixels.
        before: Its zeros before the first pixel.
        after: And after the last.
    """

    kernel: int
    before: int
    after: int

    @property
    def taps(self) -> int:
        """Of the kernel in blocks: what it needs to be at any place of its first one."""
        return -(-(self.kernel + BLOCK - 1) // BLOCK)

    @property
    def growth(self) -> int:
        """Pixels of the output less those of the input."""
        return self.before + self.after - self.kernel + 1

    @property
    def spare(self) -> int:
        """Zeros that the last place of the kernel reads beyond what it multiplies."""
        return self.taps * BLOCK - BLOCK - self.kernel + 1

    @property
    def rounds_up(self) -> bool:
        """Whether what the input lacks for whole blocks of output is what it lacks for whole blocks itself."""
        return self.before == self.after == 0 and self.kernel % BLOCK == 1


def _turn(graph: ir.Graph, node: ir.Node, weight: Float64, bias: Float64 | None) -> None:
    pads = ints(node, "pads") or [0, 0, 0, 0]
    axes = [_Axis(weight.shape[2 + axis], pads[axis], pads[axis + 2]) for axis in (0, 1)]
    new = Replacement(graph, node)
    picture = node.inputs[0]
    assert picture is not None
    side = new.add("Shape", [picture], "shape", start=2, end=4)
    size = new.add("Add", [side, new.weight("growth", np.array([axis.growth for axis in axes]))], "size")
    # What the output's last blocks lack, as zeros after the input.
    lack = new.add(
        "Mod", [new.add("Neg", [size], "negative"), new.weight("block", np.array([BLOCK] * 2))], "lack"
    )
    after = new.weight("after", np.array([axis.after + axis.spare for axis in axes]))
    start = new.weight("start", np.array([0, 0, axes[0].before, axes[1].before, 0, 0]))
    amounts = new.add("Concat", [start, new.add("Add", [lack, after], "more")], "amounts", axis=0)
    filled = new.add("Pad", [picture, amounts], "Pad", mode="constant")
    if all(axis.rounds_up for axis in axes):
        filled.producer().metadata_props[ROUNDS_UP] = "true"
    blocks = new.add("SpaceToDepth", [filled], "SpaceToDepth", blocksize=BLOCK)
    weights = [new.weight("weight", _kernel(weight, axes))]
    if bias is not None:
        weights.append(new.weight("bias", np.tile(bias, BLOCK * BLOCK)))
    value = new.add("Conv", [blocks, *weights], "blocks", kernel_shape=[axis.taps for axis in axes])
    pixels = new.add("DepthToSpace", [value], "DepthToSpace", blocksize=BLOCK, mode="DCR")
    first, where = new.weight("first", np.array([0, 0])), new.weight("axes", np.array([2, 3]))
    new.finish(new.add("Slice", [pixels, first, size, where], "cut"))


def _kernel(weight: Float64, axes: list[_Axis]) -> Float64:
    """The kernel of blocks: [16 outputs, 16 inputs, taps, taps], the place in a block before the channel."""
    outputs, inputs, height, width = weight.shape
    taps = [axis.taps for axis in axes]
    wide = np.zeros((BLOCK, BLOCK, outputs, taps[0] * BLOCK, taps[1] * BLOCK, inputs))
    for a, b in np.ndindex(BLOCK, BLOCK):
        wide[a, b, :, a : a + height, b : b + width] = weight.transpose(0, 2, 3, 1)
    # Pixels of the kernel to blocks and places in them: (a, b, output, u, r, v, s, input).
    split = wide.reshape(BLOCK, BLOCK, outputs, taps[0], BLOCK, taps[1], BLOCK, inputs)
    ordered = split.transpose(0, 1, 2, 4, 6, 7, 3, 5)  # (a, b, output, r, s, input, u, v)
    return ordered.reshape(BLOCK**2 * outputs, BLOCK**2 * inputs, *taps)

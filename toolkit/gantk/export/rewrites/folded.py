# SPDX-License-Identifier: Apache-2.0
"""What the weights of a convolution may take in: factors of its results, and the order in which blocks read them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.endings import slopes_of
from gantk.export.rewrites.graphs import (
    Float64,
    Replacement,
    alone_before,
    attribute,
    by_channel,
    constant,
    has_computed_bias,
    only_user,
    optional,
    other_input,
    text,
)


def fold_factors(graph: ir.Graph) -> None:
    """Let each convolution make what a product with a constant makes of its results, as residuals are scaled by."""
    for node in [node for node in graph if node.op_type in ("Conv", "ConvTranspose")]:
        product = only_user(node.outputs[0])
        kernel = constant(node.inputs[1])
        if product is None or product.op_type != "Mul" or kernel is None or has_computed_bias(node):
            continue
        if node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1:
            continue
        axis = int(node.op_type == "ConvTranspose")
        factors = by_channel(other_input(product, node.outputs[0]), kernel.shape[axis])
        if factors is not None:
            new = Replacement(graph, node)
            by_axis = factors.reshape([-1 if index == axis else 1 for index in range(kernel.ndim)])
            bias = constant(optional(node, 2))
            new.finish(
                _again(new, node, kernel * by_axis, None if bias is None else bias * factors), (node, product)
            )


def order_blocks(graph: ir.Graph) -> None:
    """Let pixel shuffles (Shi et al., arXiv 1609.05158, section 3.2) read whole pixels, one after another.

    The convolution before makes its channels in another order, and what multiplies negative values does so before: a
    shuffle then moves runs of values, and the convolution may take in the other.
    """
    for node in [node for node in graph if node.op_type == "DepthToSpace"]:
        shuffle = _after_slopes(graph, node)
        if text(shuffle, "mode", "DCR") == "CRD":
            _reorder(graph, shuffle)


def _after_slopes(graph: ir.Graph, shuffle: ir.Node) -> ir.Node:
    """The shuffle, behind what alone reads it and computes value by value; it may be a new one."""
    user, blocks = only_user(shuffle.outputs[0]), shuffle.inputs[0]
    depth = None if blocks is None or blocks.shape is None else blocks.shape[1]
    if user is None or blocks is None or not isinstance(depth, int):
        return shuffle
    pixels = attribute(shuffle, "blocksize", 1) ** 2
    slopes = slopes_of(user, depth // pixels)
    if slopes is None and user.op_type != "Relu":
        return shuffle
    new = Replacement(graph, user)
    inputs = [blocks]
    if slopes is not None:
        in_order = text(shuffle, "mode", "DCR") == "DCR"
        of_blocks = np.tile(slopes, pixels) if in_order else np.repeat(slopes, pixels)
        inputs.append(new.weight("slopes", of_blocks.reshape(-1, 1, 1)))
    rectified = new.add("Relu" if slopes is None else "PRelu", inputs, "before")
    rectified.type, rectified.shape = blocks.type, blocks.shape
    moved = new.add("DepthToSpace", [rectified], "DepthToSpace", **shuffle.attributes)
    new.finish(moved, (shuffle, user))
    found = moved.producer()
    assert found is not None
    return found


def _reorder(graph: ir.Graph, shuffle: ir.Node) -> None:
    """Let the convolution before a shuffle make the channels of a pixel together."""
    chain = [shuffle]
    before = alone_before(shuffle)
    if before is not None and before.op_type in ("PRelu", "Relu"):
        chain.insert(0, before)
        before = alone_before(before)
    kernel = None if before is None or before.op_type != "Conv" else constant(before.inputs[1])
    if before is None or kernel is None or has_computed_bias(before) or attribute(before, "group", 1) != 1:
        return
    slopes = slopes_of(chain[0], len(kernel)) if len(chain) == 2 else None
    if len(chain) == 2 and slopes is None and chain[0].op_type != "Relu":
        return
    new = Replacement(graph, shuffle)
    pixels = attribute(shuffle, "blocksize", 1) ** 2
    order = np.arange(len(kernel)).reshape(-1, pixels).T.ravel()
    bias = constant(optional(before, 2))
    value = _again(new, before, kernel[order], None if bias is None else bias[order])
    if len(chain) == 2:
        more = [] if slopes is None else [new.weight("slopes", slopes[order].reshape(-1, 1, 1))]
        made = new.add(chain[0].op_type, [value, *more], chain[0].op_type)
        made.type, made.shape = value.type, value.shape
        value = made
    block = attribute(shuffle, "blocksize", 1)
    new.finish(
        new.add("DepthToSpace", [value], "DepthToSpace", blocksize=block, mode="DCR"), (before, *chain)
    )


def _again(new: Replacement, convolution: ir.Node, kernel: Float64, bias: Float64 | None) -> ir.Value:
    """The same convolution with other weights."""
    inputs = [convolution.inputs[0], new.weight("weight", kernel)]
    if bias is not None:
        inputs.append(new.weight("bias", bias))
    made = new.add(convolution.op_type, inputs, convolution.op_type, **convolution.attributes)
    made.type, made.shape = convolution.outputs[0].type, convolution.outputs[0].shape
    return made

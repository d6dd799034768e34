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
    """Let each convolution make what constants make of its results, as residuals are scaled and biases added."""
    for found in [node for node in graph if node.op_type in ("Conv", "ConvTranspose")]:
        node: ir.Node | None = found
        while node is not None:
            node = _with_constant(graph, node)


def _with_constant(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A convolution that multiplies its results or adds to them, as what alone reads these did."""
    user, kernel = only_user(node.outputs[0]), constant(node.inputs[1])
    if user is None or user.op_type not in ("Add", "Mul") or kernel is None or has_computed_bias(node):
        return None
    if node.op_type == "ConvTranspose" and attribute(node, "group", 1) != 1:
        return None
    axis = int(node.op_type == "ConvTranspose")
    numbers = by_channel(other_input(user, node.outputs[0]), kernel.shape[axis])
    if numbers is None:
        return None
    new, bias = Replacement(graph, node), constant(optional(node, 2))
    if user.op_type == "Add":
        bias = numbers if bias is None else bias + numbers
    else:
        kernel = kernel * numbers.reshape([-1 if index == axis else 1 for index in range(kernel.ndim)])
        bias = None if bias is None else bias * numbers
    made = _again(new, node, kernel, bias)
    new.finish(made, (node, user))
    return made.producer()


def factors_before_slopes(graph: ir.Graph) -> None:
    """Let a positive factor multiply what a ReLU reads and not what it yields, where a convolution may take it in.

    StyleGAN2 and 3 multiply so to keep the variance of activations (Karras et al., arXiv 1912.04958, section 2.1).
    """
    for node in [node for node in graph if node.op_type == "Mul"]:
        for active, factor in (node.inputs, node.inputs[::-1]):
            number, slopes = constant(factor), None if active is None else active.producer()
            if number is None or slopes is None or slopes.op_type not in ("LeakyRelu", "Relu"):
                continue
            if number.size != 1 or number.item() <= 0 or only_user(slopes.outputs[0]) is not node:
                continue
            new, sums = Replacement(graph, node), slopes.inputs[0]
            product = new.add("Mul", [sums, factor], "Mul")
            if sums is not None:
                product.type, product.shape = sums.type, sums.shape
            moved = new.add(slopes.op_type, [product], slopes.op_type, **slopes.attributes)
            new.finish(moved, (slopes, node))
            break


def factors_behind_filters(graph: ir.Graph) -> None:
    """Let factors of channels multiply what a depthwise convolution yields and not what it reads.

    There they may be one pass with what follows, as StyleGAN2's demodulations, blurs, noise and activations are.
    """
    for node in [node for node in graph if node.op_type == "Conv" and attribute(node, "group", 1) > 1]:
        product, kernel, made = alone_before(node), constant(node.inputs[1]), node.outputs[0]
        if product is None or product.op_type != "Mul" or kernel is None or optional(node, 2) is not None:
            continue
        first, second = product.inputs
        for pictures, factors in ((first, second), (second, first)):
            if pictures is None or factors is None or factors.shape is None or made.shape is None:
                continue
            if len(kernel) != attribute(node, "group", 1) or list(factors.shape[1:]) != [len(kernel), 1, 1]:
                continue
            new = Replacement(graph, node)
            filtered = new.add("Conv", [pictures, *node.inputs[1:]], "Conv", **node.attributes)
            filtered.type, filtered.shape = made.type, made.shape
            new.finish(new.add("Mul", [filtered, factors], "Mul"), (product, node))
            break


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

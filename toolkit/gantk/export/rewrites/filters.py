# SPDX-License-Identifier: Apache-2.0
"""Filters that see one channel at a time, as depthwise convolutions: the blurs and enlargements of StyleGAN2.

Its ``upfirdn2d`` (Karras et al., arXiv 1912.04958, after Zhang, arXiv 1904.11486) puts zeros between pixels and around
them, and filters each channel as a picture of its own; exporters write tensors of five or six axes and copies of whole
pictures for it. Zeros between pixels are a transposed convolution, and zeros around them its pads.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from gantk.export.rewrites.graphs import (
    Float64,
    Replacement,
    alone_before,
    attribute,
    constant,
    drop_unused_weights,
    has_computed_bias,
    ints,
    is_explicit,
    only_user,
    optional,
    padding,
    text,
)

FEW_CHANNELS = 8
"""Filters of so few are transposed convolutions of all channels, most of whose weights are 0: backends are slow at
transposed depthwise ones."""


def filters_to_depthwise(graph: ir.Model) -> int:
    """Turn filters of single channels into depthwise convolutions of pictures, transposed ones where they enlarge.

    Returns:
        The number of changes.
    """
    filters = [node for node in graph.graph if _kernels(node) is not None]
    turned = 0
    for found in filters:
        node = found
        for turn in (_with_padding, _of_channels, _with_padding, _enlarging):
            made = turn(graph.graph, node)
            turned, node = turned + (made is not None), made or node
    if turned:
        RemoveUnusedNodesPass()(graph)
        drop_unused_weights(graph.graph)
        ShapeInferencePass()(graph)
    return turned


def _kernels(node: ir.Node) -> Float64 | None:
    """The kernels of a convolution that sees single channels one at a time, [channels, 1, rows, columns]."""
    kernels = constant(node.inputs[1]) if node.op_type == "Conv" and is_explicit(node) else None
    if kernels is None or kernels.ndim != 4 or kernels.shape[1] != 1 or has_computed_bias(node):
        return None
    whole = all(ints(node, name) in ([], [1, 1]) for name in ("strides", "dilations"))
    return kernels if whole and attribute(node, "group", 1) == len(kernels) else None


def _with_padding(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A filter that adds the zeros around pictures, which a node before it did."""
    before = alone_before(node)
    amounts = None if before is None else padding(before)
    if before is None or before.inputs[0] is None or amounts is None or len(amounts) != 8:
        return None
    value = constant(optional(before, 2))
    zeros = text(before, "mode", "constant") == "constant" and (value is None or not value.any())
    if not zeros or min(amounts) < 0 or any((*amounts[:2], *amounts[4:6])):
        return None
    more = (*amounts[2:4], *amounts[6:])
    pads = [own + other for own, other in zip(_pads(node), more, strict=True)]
    new = Replacement(graph, node)
    attributes = {**node.attributes, "pads": pads}
    return _finished(
        new, new.add("Conv", [before.inputs[0], *node.inputs[1:]], "padding", **attributes), [before, node]
    )


def _of_channels(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A filter of pictures, in place of one that has channels for pictures."""
    kernels, before, after = _kernels(node), alone_before(node), only_user(node.outputs[0])
    if kernels is None or len(kernels) != 1 or before is None or after is None or before.inputs[0] is None:
        return None
    if before.op_type != "Reshape" or after.op_type != "Reshape":
        return None
    single, filtered, made = (
        _sizes(value) for value in (before.outputs[0], node.outputs[0], after.outputs[0])
    )
    if single is None or filtered is None or made is None or len(made) != 4 or made[2:] != filtered[2:]:
        return None
    new, channels = Replacement(graph, node), made[1]
    pictures = _shaped(new, before.inputs[0], [*made[:2], *single[2:]])
    inputs = [pictures, new.weight("kernels", np.repeat(kernels, channels, 0))]
    bias = constant(optional(node, 2))
    if bias is not None:
        inputs.append(new.weight("bias", np.repeat(bias, channels)))
    return _finished(
        new,
        new.add("Conv", inputs, "depthwise", **{**node.attributes, "group": channels}),
        [before, node, after],
    )


def _enlarging(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A transposed convolution, in place of a filter of pixels between which a padding by more axes has put zeros."""
    kernels, joined = _kernels(node), alone_before(node)
    pad = None if joined is None or joined.op_type != "Reshape" else alone_before(joined)
    split = None if pad is None or pad.op_type != "Pad" else alone_before(pad)
    if kernels is None or joined is None or pad is None or split is None or split.op_type != "Reshape":
        return None
    apart, spread, picture = split.outputs[0], _sizes(pad.outputs[0]), _sizes(joined.outputs[0])
    source, sizes, amounts = split.inputs[0], _sizes(apart), padding(pad)
    if source is None or sizes is None or spread is None or picture is None or amounts is None:
        return None
    height, by_rows, width, by_columns = spread[-4:]
    zeros = [0] * (2 * len(sizes) - 3) + [by_rows - 1, 0, by_columns - 1]
    if amounts != zeros or sizes[-3::2] != [1, 1] or picture[2:] != [height * by_rows, width * by_columns]:
        return None
    value = constant(optional(pad, 2))
    rows, columns = kernels.shape[2:]
    above, left, below, right = _pads(node)
    pads = [rows - 1 - above, columns - 1 - left, rows - by_rows - below, columns - by_columns - right]
    if text(pad, "mode", "constant") != "constant" or (value is not None and value.any()) or min(pads) < 0:
        return None
    new = Replacement(graph, node)
    pictures = _shaped(new, source, [*picture[:2], height, width])
    flipped, groups = kernels[:, :, ::-1, ::-1], len(kernels)
    if groups <= FEW_CHANNELS:
        flipped, groups = flipped * np.eye(groups)[:, :, None, None], 1
    inputs = [pictures, new.weight("kernels", flipped), *node.inputs[2:]]
    attributes = {**node.attributes, "group": groups, "pads": pads, "strides": [by_rows, by_columns]}
    return _finished(
        new, new.add("ConvTranspose", inputs, "enlarging", **attributes), [split, pad, joined, node]
    )


def _pads(node: ir.Node) -> list[int]:
    return ints(node, "pads") or [0] * 4


def _sizes(value: ir.Value) -> list[int] | None:
    """A shape of at least four sizes that are all known."""
    known = value.shape is not None and len(value.shape) >= 4 and value.shape.is_static()
    return list(value.shape.numpy()) if known and value.shape is not None else None


def _shaped(new: Replacement, value: ir.Value, sizes: list[int]) -> ir.Value:
    """A tensor in another shape."""
    if _sizes(value) == sizes:
        return value
    pictures = new.add("Reshape", [value, new.weight("sizes", np.array(sizes))], "pictures")
    pictures.type, pictures.shape = value.type, ir.Shape(sizes)
    return pictures


def _finished(new: Replacement, value: ir.Value, chain: list[ir.Node]) -> ir.Node:
    """The node that yields a value, in the place of a chain."""
    new.finish(value, chain)
    made = value.producer()
    assert made is not None
    return made

# SPDX-License-Identifier: Apache-2.0
"""Filters that see one channel at a time, as depthwise convolutions: the blurs and enlargements of StyleGAN2.

Its ``upfirdn2d`` (Karras et al., arXiv 1912.04958, after Zhang, arXiv 1904.11486) puts zeros between pixels and around
them, and filters each channel as a picture of its own; exporters write tensors of five or six axes and copies of whole
pictures for it. Zeros between pixels are a transposed convolution, and zeros around them its pads.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from gantk.export.rewrites.folded import factors_before_slopes, fold_factors
from gantk.export.rewrites.graphs import (
    Replacement,
    alone_before,
    constant,
    drop_unused_weights,
    only_user,
    optional,
)
from gantk.export.rewrites.separable import enlarging_by_phases, enlarging_one_by_one, with_strides
from gantk.export.rewrites.spread import (
    frame_of,
    kernels_of,
    pads_of,
    shaped,
    sizes_of,
    spread_before,
    together,
    transposed_pads,
)

FEW_CHANNELS = 8
"""Filters of so few are transposed convolutions of all channels, most of whose weights are 0: backends are slow at
transposed depthwise ones, and natively those of 4 x 4 are the faster."""


def filters_to_depthwise(graph: ir.Model, *, phases: bool = True) -> int:
    """Turn filters of single channels into depthwise convolutions of pictures, transposed ones where they enlarge.

    Args:
        graph: That holds them.
        phases: Whether filters of rows and then of columns become those of their phases, for backends that are slow at
            transposed depthwise convolutions.

    Returns:
        The number of changes.
    """
    filters = [node for node in graph.graph if kernels_of(node) is not None]
    if filters:
        factors_before_slopes(graph.graph)
        fold_factors(graph.graph)
        filters = [node for node in graph.graph if kernels_of(node) is not None]
    turned = 0
    for found in filters:
        node = found
        for turn in (_with_padding, _of_channels, _with_padding):
            made = turn(graph.graph, node)
            turned, node = turned + (made is not None), made or node
    turns = (
        enlarging_by_phases if phases else enlarging_one_by_one,
        partial(_enlarging, phases=phases),
        with_strides,
    )
    for node in [node for node in graph.graph if kernels_of(node) is not None]:
        if node.graph is not None:  # As the second of a pair it may be gone.
            turned += any(turn(graph.graph, node) for turn in turns)
    if turned:
        RemoveUnusedNodesPass()(graph)
        drop_unused_weights(graph.graph)
        ShapeInferencePass()(graph)
    return turned


def _with_padding(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A filter that adds the zeros around pictures, which a node before it did."""
    before = alone_before(node)
    frame = None if before is None or before.op_type != "Pad" else frame_of(before)
    if before is None or before.inputs[0] is None or frame is None or min(frame) < 0:
        return None
    pads = [own + more for own, more in zip(pads_of(node), frame, strict=True)]
    new = Replacement(graph, node)
    attributes = {**node.attributes, "pads": pads}
    return _finished(
        new, new.add("Conv", [before.inputs[0], *node.inputs[1:]], "padding", **attributes), [before, node]
    )


def _of_channels(graph: ir.Graph, node: ir.Node) -> ir.Node | None:
    """A filter of pictures, in place of one that has channels for pictures."""
    kernels, before, after = kernels_of(node), alone_before(node), only_user(node.outputs[0])
    if kernels is None or len(kernels) != 1 or before is None or after is None or before.inputs[0] is None:
        return None
    if before.op_type != "Reshape" or after.op_type != "Reshape":
        return None
    single, filtered, made = (
        sizes_of(value) for value in (before.outputs[0], node.outputs[0], after.outputs[0])
    )
    if single is None or filtered is None or made is None or len(made) != 4 or made[2:] != filtered[2:]:
        return None
    new, channels = Replacement(graph, node), made[1]
    pictures = shaped(new, before.inputs[0], [*made[:2], *single[2:]])
    inputs = [pictures, new.weight("kernels", np.repeat(kernels, channels, 0))]
    bias = constant(optional(node, 2))
    if bias is not None:
        inputs.append(new.weight("bias", np.repeat(bias, channels)))
    return _finished(
        new,
        new.add("Conv", inputs, "depthwise", **{**node.attributes, "group": channels}),
        [before, node, after],
    )


def _enlarging(graph: ir.Graph, node: ir.Node, *, phases: bool) -> bool:
    """Put a transposed convolution in the place of a filter of pixels with zeros between them."""
    kernels, spread = kernels_of(node), spread_before(node)
    if kernels is None or spread is None:
        return False
    rows, columns = kernels.shape[2:]
    frame = together(spread.frame, pads_of(node))
    pads = None if frame is None else transposed_pads(spread, frame, rows, columns)
    if pads is None:
        return False
    new = Replacement(graph, node)
    pictures = shaped(new, spread.source, spread.sizes)
    flipped, groups = kernels[:, :, ::-1, ::-1], len(kernels)
    if groups <= FEW_CHANNELS and (phases or (spread.times == (2, 2) and max(rows, columns) <= 4)):
        flipped, groups = flipped * np.eye(groups)[:, :, None, None], 1
    inputs = [pictures, new.weight("kernels", flipped), *node.inputs[2:]]
    attributes = {**node.attributes, "group": groups, "pads": pads, "strides": [*spread.times]}
    new.finish(new.add("ConvTranspose", inputs, "enlarging", **attributes), [*spread.nodes, node])
    return True


def _finished(new: Replacement, value: ir.Value, chain: list[ir.Node]) -> ir.Node:
    """The node that yields a value, in the place of a chain."""
    new.finish(value, chain)
    made = value.producer()
    assert made is not None
    return made

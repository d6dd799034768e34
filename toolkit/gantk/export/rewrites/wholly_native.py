# SPDX-License-Identifier: Apache-2.0
"""A whole network as gantk's own functions with channels last, for CPUs.

In this layout convolutions, normalisations and borders read and write whole registers, and nothing is transposed on
the way: in float32 that saves what ONNX Runtime spends between its convolutions. In bfloat16 it has nothing on CPUs but
what moves data: there a network runs by native operators for all that is heavy, and in float32 at the ends.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gantk.export.functions import DOMAIN
from gantk.export.precision import IN_FLOAT
from gantk.export.rewrites.apart import (
    averages_apart,
    crops_apart,
    groups_apart,
    norms_apart,
    products_apart,
    quotients_apart,
    splits_apart,
    transposed_apart,
)
from gantk.export.rewrites.endings import Ending, ending_of, slopes_to_native
from gantk.export.rewrites.enlarged import enlarged_to_transposed, pointwise_before_enlargement
from gantk.export.rewrites.filters import filters_to_depthwise
from gantk.export.rewrites.folded import factors_behind_filters, fold_factors, order_blocks
from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    SIMD_FLOATS,
    Float64,
    Replacement,
    attribute,
    constant,
    drop_unused_weights,
    fill_types,
    has_computed_bias,
    ints,
    is_explicit,
    of_any_size,
    outputs_of,
    parameters,
)
from gantk.export.rewrites.modulated import modulated_to_features
from gantk.export.rewrites.native_affine import affine_to_native, clips_to_native
from gantk.export.rewrites.native_borders import Border, border_of, border_to_native
from gantk.export.rewrites.native_channel_norm import channel_norms_to_native
from gantk.export.rewrites.native_dense import dense_to_native
from gantk.export.rewrites.native_norm import turn_normalizations
from gantk.export.rewrites.transposed import doubling_kernel
from gantk.export.rewrites.transposes import ELEMENTWISE, last_of, move_transposes

MARK = "gantk.wholly_native"
"""The key of a graph's metadata by which its file says that native operators are all that is heavy in it."""

FEW_OUTPUTS = 8
"""As `kMostNarrow` of kernels/cpu/nhwc_loops.hpp."""

FEW_TERMS = 4
"""Sums of so many take little more than a pass."""

_MOVERS = frozenset({"Cast", "Concat", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""What ONNX Runtime computes in bfloat16 on a CPU."""

_BY_PASS = ELEMENTWISE | {"Expand", "ReduceMax", "ReduceMean", "ReduceSum", "Resize"}
"""What takes little more than a pass, be it in float32."""


def channels_last_to_native(graph: ir.Model) -> int:
    """Turn a network into native operators that have channels last, all of it.

    - Convolutions become `gantk::NhwcConvolution`, `NhwcDepthwiseConvolution` or `NhwcTransposedConvolution4x4`, with
      the activation or the sum that alone follows one (`gantk.export.rewrites.endings`). Before that modulated ones
      get constant weights, filters of single channels are told to be depthwise (`modulated`, `filters`), enlargements
      before convolutions become transposed ones (`enlarged`), and dense layers that make pictures of vectors become
      convolutions of single pixels.
    - Normalisations become `InstanceNorm` (`native_norm`), `NhwcGroupNorm`, `NhwcLayerNorm` or `NhwcRmsNorm`
      (`native_channel_norm`),
      other borders `BorderedBlocks`, maxima `NhwcMaxPool2x2`.
    - What is computed value by value between these becomes `NhwcAffine` and its kin or `NhwcClip` (`native_affine`),
      `NhwcPRelu`, `NhwcGate` or `NhwcGlu`; the rest, and what is computed of whole pictures, is done in the same
      layout, and marked `IN_FLOAT`.

    Of the transposes between these none is left.

    Returns:
        The number of convolutions turned; 0 where anything else is computed of pictures, for then ONNX Runtime could
        not load the file in bfloat16.
    """
    modulated_to_features(graph)
    filters_to_depthwise(graph, phases=False)
    pointwise_before_enlargement(graph)
    enlarged_to_transposed(graph)
    transposed_apart(graph.graph)
    groups_apart(graph.graph)
    averages_apart(graph.graph)
    crops_apart(graph.graph)
    products_apart(graph.graph)
    quotients_apart(graph.graph)
    factors_behind_filters(graph.graph)
    fold_factors(graph.graph)
    order_blocks(graph.graph)
    channel_norms_to_native(graph)
    splits_apart(graph.graph)
    norms_apart(graph.graph)
    _borders_apart(graph.graph)
    turn_normalizations(graph)
    RemoveUnusedNodesPass()(graph)
    for node in list(graph.graph):
        border = border_of(node)
        if border is not None and _is_float(node.inputs[0]):
            _turn_border(graph, node, border)
    turned = sum(_turn(graph, node) for node in list(graph.graph))
    affine_to_native(graph)
    clips_to_native(graph)
    for node in list(graph.graph):
        slopes_to_native(graph, node)
        _pooling_to_native(graph, node)
    move_transposes(graph.graph)
    RemoveUnusedNodesPass()(graph)
    drop_unused_weights(graph.graph)
    fill_types(graph.graph)
    _spell_out(graph)
    if not turned or not all(_has_kernel(node) for node in graph.graph):
        return 0
    _mark_floats(graph.graph)
    graph.metadata_props[MARK] = "true"
    return turned


def _borders_apart(graph: ir.Graph) -> None:
    """Let the zeros around what a convolution would copy be a padding of its own, which an InstanceNorm may do."""
    for node in [node for node in graph if node.op_type == "Conv"]:
        amounts = ints(node, "pads")
        if not any(amounts) or len(amounts) != 4 or min(amounts) < 0 or not is_explicit(node):
            continue
        if _has_free_padding(node):
            continue
        new = Replacement(graph, node)
        pads = new.weight("pads", np.array([0, 0, *amounts[:2], 0, 0, *amounts[2:]]))
        padded = new.add("Pad", [node.inputs[0], pads], "Pad", mode="constant")
        picture = node.inputs[0]
        assert picture is not None
        padded.type, padded.shape = picture.type, of_any_size(picture.shape, 1)
        attributes = {name: value for name, value in node.attributes.items() if name != "pads"}
        new.finish(new.add("Conv", [padded, *node.inputs[1:]], "Conv", **attributes))


def _turn_border(graph: ir.Model, pad: ir.Node, border: Border) -> None:
    new = Replacement(graph.graph, pad)
    last = last_of(new, pad.inputs[0])
    bordered = border_to_native(graph, new, last, border)
    bordered.type, bordered.shape = last.type, of_any_size(last.shape, 3)
    new.finish(new.transposed(bordered, CHANNELS_FIRST))


def _turn(graph: ir.Model, node: ir.Node) -> bool:
    """Turn a node into a native convolution, where it can be one."""
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return False
    if dense_to_native(graph, node):
        return True
    if node.op_type == "Gemm" or has_computed_bias(node):
        return False
    if node.op_type == "ConvTranspose":
        return _turn_transposed(graph, node)
    return _turn_plain(graph, node)


def _turn_plain(graph: ir.Model, node: ir.Node) -> bool:
    kernel, strides = constant(node.inputs[1]), ints(node, "strides") or [1, 1]
    pads, dilations = ints(node, "pads") or [0] * 4, ints(node, "dilations") or [1, 1]
    if kernel is None:
        return False
    how = {"strides": strides, "pads": pads}
    if _is_depthwise(node):
        _turn_convolution(graph, node, "NhwcDepthwiseConvolution", kernel, group=len(kernel), **how)
    elif _is_convolution(node, kernel, strides, dilations):
        _turn_convolution(graph, node, "NhwcConvolution", kernel, dilations=dilations, **how)
    else:
        return False
    return True


def _is_depthwise(node: ir.Node) -> bool:
    """Whether a convolution sees a channel at a time, and makes one of it."""
    kernel = constant(node.inputs[1])
    if kernel is None or kernel.ndim != 4 or kernel.shape[1] != 1 or len(kernel) == 1:
        return False
    if ints(node, "output_shape"):
        return False
    plain = ints(node, "dilations") in ([], [1, 1]) and is_explicit(node)
    return plain and attribute(node, "group", 1) == len(kernel) and min(ints(node, "pads"), default=0) >= 0


def _turn_transposed(graph: ir.Model, node: ir.Node) -> bool:
    """Turn one that doubles the picture, adds a row and a column to that, or takes the double of a border off it.

    Or one of each channel by itself.
    """
    weight = constant(node.inputs[1])
    if weight is not None and _is_depthwise(node):
        how = {"strides": ints(node, "strides") or [1, 1], "pads": ints(node, "pads") or [0] * 4}
        how["output_padding"] = ints(node, "output_padding") or [0, 0]
        _turn_convolution(graph, node, "NhwcDepthwiseTransposed", weight, group=len(weight), **how)
        return True
    for before, after in ((1, 1), (1, 0), (3, 3)):
        kernel = doubling_kernel(node, before, after)
        if kernel is not None:
            pads = [before, before, after, after]
            _turn_convolution(graph, node, "NhwcTransposedConvolution4x4", kernel, pads=pads)
            return True
    return False


def _pooling_to_native(graph: ir.Model, node: ir.Node) -> None:
    """Let maxima of windows of 2 x 2, side by side, be native too."""
    if node.op_type != "MaxPool" or len(node.outputs) > 1 or not is_explicit(node) or any(ints(node, "pads")):
        return
    if (
        ints(node, "kernel_shape") != [2, 2]
        or ints(node, "strides") != [2, 2]
        or attribute(node, "storage_order", 0)
    ):
        return
    if ints(node, "dilations") not in ([], [1, 1]):
        return
    new = Replacement(graph.graph, node)
    last = last_of(new, node.inputs[0])
    result = new.call(graph, "NhwcMaxPool2x2", [last], ceil_mode=attribute(node, "ceil_mode", 0))
    result.type, result.shape = last.type, of_any_size(last.shape, 3)
    new.finish(new.transposed(result, CHANNELS_FIRST))


def _is_convolution(node: ir.Node, kernel: Float64, strides: list[int], dilations: list[int]) -> bool:
    return (
        kernel.ndim == 4
        and strides in ([1, 1], [2, 2])
        and (not any(ints(node, "pads")) or _has_free_padding(node))
        and len(set(dilations)) == 1
        and attribute(node, "group", 1) == 1
        and is_explicit(node)
    )


def _has_free_padding(node: ir.Node) -> bool:
    """Whether a native convolution reads zeros around its features without a copy of them.

    Winograd's method does, and so do lanes of pixels, for few outputs and pixels side by side, and depthwise ones.
    """
    if _is_depthwise(node):
        return True
    kernel, pads = constant(node.inputs[1]), ints(node, "pads")
    if kernel is None or kernel.ndim != 4 or ints(node, "strides") not in ([], [1, 1]):
        return False
    if pads[0] != pads[1] or pads[2] != pads[3] or min(pads) < 0:
        return False
    outputs, inputs, *sides = kernel.shape
    if outputs <= FEW_OUTPUTS and ints(node, "dilations") in ([], [1, 1]):
        return True
    return sides == [3, 3] and outputs % SIMD_FLOATS == inputs % SIMD_FLOATS == 0


def _turn_convolution(
    graph: ir.Model, node: ir.Node, function: str, kernel: Float64, **attributes: int | list[int]
) -> None:
    """Put a function in the place of a convolution and of what it takes in after that.

    Args:
        graph: That holds it.
        node: The convolution.
        function: Without its ending.
        kernel: Its weights, as the function takes them.
        attributes: Of the function.
    """
    ending = ending_of(node, outputs_of(node, kernel))
    if ending.others is not None and "group" in attributes:  # There is no sum of a depthwise one.
        ending = Ending((node,))
    new = Replacement(graph.graph, ending.place)
    weight, bias = parameters(new, node, kernel)
    last = last_of(new, node.inputs[0])
    inputs = [last, weight, bias, *ending.inputs(new)]
    result = new.call(graph, f"{function}{ending.name}", inputs, **attributes)
    assert bias.shape is not None
    result.type, result.shape = last.type, of_any_size(last.shape, 3, bias.shape[0])
    new.finish(new.transposed(result, CHANNELS_FIRST), ending.nodes)


def _spell_out(graph: ir.Model) -> None:
    """Give native nodes the attributes that they have by default.

    ONNX's inliner, by which backends without local functions get the bodies, knows of no defaults.
    """
    for node in graph.graph:
        if node.domain == DOMAIN:
            for name, default in graph.functions[node.op_identifier()].attributes.items():
                node.attributes.setdefault(name, default)


def _has_kernel(node: ir.Node) -> bool:
    """Whether ONNX Runtime, with gantk's operators, computes a node of a bfloat16 file, be it in float32.

    Of pictures that is what is a pass: sums of products in float32 would take longer than all the rest.
    """
    if node.domain == DOMAIN or node.op_type in _MOVERS | _BY_PASS:
        return True
    if node.op_type == "MatMul" and _sums_few(node):
        return True
    return all(
        not _is_float(value) or (value.shape is not None and len(value.shape) < 4) for value in node.outputs
    )


def _sums_few(product: ir.Node) -> bool:
    """Whether each value is a sum of few, as a wave's phase is of two coordinates."""
    first = product.inputs[0]
    inner = None if first is None or not first.shape else first.shape[-1]
    return isinstance(inner, int) and inner <= FEW_TERMS


def _mark_floats(graph: ir.Graph) -> None:
    """Mark what a bfloat16 file is to compute in float32: what has no kernel there, and what moves its results."""
    for node in graph:
        if node.domain == DOMAIN:
            continue
        before = node.inputs[0].producer() if node.inputs and node.inputs[0] is not None else None
        moves = node.op_type in _MOVERS or not any(_is_float(value) for value in node.outputs)
        if not moves or (before is not None and IN_FLOAT in before.metadata_props):
            node.metadata_props[IN_FLOAT] = "true"


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and (value.dtype is None or value.dtype.is_floating_point())

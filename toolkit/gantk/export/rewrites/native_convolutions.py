# SPDX-License-Identifier: Apache-2.0
"""Convolutions as gantk's own functions, for which its native operators have kernels."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.enlarged import bordered, find_places, transposed_kernel
from gantk.export.rewrites.graphs import (
    SIMD_FLOATS,
    Float64,
    Replacement,
    constant,
    drop_unused_weights,
    ints,
    is_simple,
    only_user,
    padding_before,
    parameters,
    text,
)
from gantk.export.rewrites.transposed import doubling_kernel, is_narrow

_WITH_RELU = ("Convolution3x3", "TransposedConvolution4x4")
"""Functions that there are with a ReLU too."""


def transposed_to_native(graph: ir.Model) -> int:
    """Turn transposed convolutions that double pictures into `gantk::TransposedConvolution4x4`.

    With the ReLU that alone follows one, if any. Layers with few output channels, for which there is little to sum,
    stay as they are.

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        kernel = doubling_kernel(node)
        if kernel is not None and not is_narrow(kernel):
            _replace(graph, node, (node,), "TransposedConvolution4x4", kernel)
            turned += 1
    drop_unused_weights(graph.graph)
    return turned


def enlarged_to_native(graph: ir.Model) -> int:
    """Turn enlargements with their convolutions (`gantk.export.rewrites.enlarged`) into `TransposedConvolution4x4`.

    From `SIMD_FLOATS` channels on, before and after. Two rows and columns of what it makes of a border are cropped.

    Returns:
        The number of convolutions turned.
    """
    places = [place for place in find_places(graph.graph) if min(place.phases.shape[2:4]) >= SIMD_FLOATS]
    for place in places:
        new = Replacement(graph.graph, place.nodes[-1])
        bias = np.zeros(place.phases.shape[2]) if place.bias is None else place.bias
        weights = [new.weight("weight", transposed_kernel(place)), new.weight("bias", bias)]
        picture, border = bordered(new, place)
        value = new.call(graph, "TransposedConvolution4x4", [picture, *weights])
        if border:
            crop = {"starts": [2, 2], "ends": [-2, -2], "axes": [2, 3]}
            bounds = [new.weight(name, np.array(numbers)) for name, numbers in crop.items()]
            value = new.add("Slice", [value, *bounds], "crop")
        new.finish(value, place.nodes)
    drop_unused_weights(graph.graph)
    return len(places)


def convolution_to_native(graph: ir.Model) -> int:
    """Turn convolutions of kernel 3 and stride 1 into `gantk::Convolution3x3`, or `gantk::ReflectedConvolution3x3`.

    Where their border is one zero, or reflected by a padding before them; from `SIMD_FLOATS` channels on, before and
    after.

    Returns:
        The number of convolutions turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "Conv" and is_simple(node)]:
        weight = constant(node.inputs[1])
        if weight is None or weight.shape[2:] != (3, 3) or min(weight.shape[:2]) < SIMD_FLOATS:
            continue
        pad = _reflection_before(node)
        if ints(node, "pads") == [1, 1, 1, 1]:
            _replace(graph, node, (node,), "Convolution3x3", weight)
        elif pad is not None and ints(node, "pads") in ([], [0, 0, 0, 0]):
            _replace(graph, node, (pad, node), "ReflectedConvolution3x3", weight)
        else:
            continue
        turned += 1
    drop_unused_weights(graph.graph)
    return turned


def _reflection_before(node: ir.Node) -> ir.Node | None:
    """A padding for this convolution alone that reflects one row and column on each side."""
    pad, amounts = padding_before(node) or (None, [])
    around = amounts == [0, 0, 1, 1, 0, 0, 1, 1]
    return pad if pad is not None and around and text(pad, "mode", "constant") == "reflect" else None


def _replace(
    graph: ir.Model, node: ir.Node, chain: tuple[ir.Node, ...], function: str, kernel: Float64
) -> None:
    """Put a function in the place of a chain that ends with a convolution, and of a ReLU after it if it has one."""
    user = only_user(node.outputs[0])
    if function in _WITH_RELU and user is not None and user.op_type == "Relu":
        chain, function = (*chain, user), f"{function}Relu"
    new = Replacement(graph.graph, node)
    new.finish(new.call(graph, function, [chain[0].inputs[0], *parameters(new, node, kernel)]), chain)

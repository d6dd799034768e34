# SPDX-License-Identifier: Apache-2.0
"""A dense layer that makes pictures of vectors, as gantk's own convolution of single pixels with channels last."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    Float64,
    Replacement,
    attribute,
    constant,
    has_computed_bias,
    ints,
    is_explicit,
    only_user,
    optional,
    with_relu,
)

_SIZES = ("output_padding", "output_shape", "pads")
"""The attributes by which a transposed convolution may yield more or less than its kernel makes of a pixel."""


def dense_to_native(graph: ir.Model, node: ir.Node) -> bool:
    """Turn a dense layer into a convolution, where a node is one: whether it is.

    That is a Gemm, or the transposed convolution of single pixels that a DCGAN may begin with. The convolution makes
    the channels of all pixels, those of one pixel together. The vectors are a row of pixels, for a kernel reads the
    weights anew for each picture.
    """
    dense = _gemm(node) if node.op_type == "Gemm" else _of_pixels(node)
    if dense is None:
        return False
    function = (
        "NhwcConvolutionRelu" if any(one.op_type == "Relu" for one in dense.nodes) else "NhwcConvolution"
    )
    new = Replacement(graph.graph, node)
    channels, height, width = dense.picture
    outputs, inputs = dense.weight.shape
    order = np.arange(outputs).reshape(dense.picture).transpose(1, 2, 0).ravel()
    weights = [
        new.weight("weight", dense.weight[order].reshape(outputs, inputs, 1, 1)),
        new.weight("bias", dense.bias[order]),
    ]
    vectors = node.inputs[0]
    assert vectors is not None
    batch = None if vectors.shape is None else vectors.shape[0]
    row = new.add("Reshape", [vectors, new.weight("row", np.array([1, 1, -1, inputs]))], "row")
    row.type, row.shape = vectors.type, ir.Shape([1, 1, batch, inputs])
    result = new.call(graph, function, [row, *weights], strides=[1, 1])
    result.type, result.shape = vectors.type, ir.Shape([1, 1, batch, outputs])
    size = new.weight("picture", np.array([-1, height, width, channels]))
    picture = new.add("Reshape", [result, size], "picture")
    picture.type, picture.shape = vectors.type, ir.Shape([batch, height, width, channels])
    new.finish(new.transposed(picture, CHANNELS_FIRST), dense.nodes)
    return True


@dataclass(frozen=True)
class _Dense:
    """A dense layer whose vectors become pictures.

    Args:
        nodes: The layer, a ReLU after it, if any, and the Reshape of a Gemm; each the only user of the one before.
        weight: float64[outputs, inputs].
        bias: float64[outputs].
        picture: Channels, height and width.
    """

    nodes: tuple[ir.Node, ...]
    weight: Float64
    bias: Float64
    picture: tuple[int, int, int]


def _of_pixels(node: ir.Node) -> _Dense | None:
    """A transposed convolution whose pictures have one pixel, and so whose kernel is what it makes of each."""
    vectors, kernel, bias = node.inputs[0], constant(node.inputs[1]), constant(optional(node, 2))
    if node.op_type != "ConvTranspose" or kernel is None or kernel.ndim != 4 or has_computed_bias(node):
        return None
    if vectors is None or vectors.shape is None or list(vectors.shape[1:]) != [len(kernel), 1, 1]:
        return None
    if (
        any(any(ints(node, name)) for name in _SIZES)
        or not is_explicit(node)
        or ints(node, "dilations") not in ([], [1, 1])
    ):
        return None
    if attribute(node, "group", 1) != 1:
        return None
    channels, height, width = kernel.shape[1:]
    of_pixels = np.zeros(channels) if bias is None else bias
    chain, _ = with_relu(node)
    weight = kernel.reshape(len(kernel), -1).T
    return _Dense(chain, weight, np.repeat(of_pixels, height * width), (channels, height, width))


def _gemm(node: ir.Node) -> _Dense | None:
    chain, _ = with_relu(node)
    reshape = only_user(chain[-1].outputs[0])
    weight, bias = constant(node.inputs[1]), constant(optional(node, 2))
    shape = None if reshape is None or reshape.op_type != "Reshape" else constant(reshape.inputs[1])
    if reshape is None or shape is None or weight is None or has_computed_bias(node):
        return None
    factors = [node.attributes[name].as_float() for name in ("alpha", "beta") if name in node.attributes]
    if attribute(node, "transA", 0) or not attribute(node, "transB", 0) or set(factors) - {1.0}:
        return None
    if len(shape) != 4 or math.prod(shape[1:]) != len(weight) or (shape[2:] == 1).all():
        return None
    channels, height, width = (int(size) for size in shape[1:])
    row = (1, len(weight))
    bias = np.zeros(row) if bias is None else bias
    if np.broadcast_shapes(bias.shape, row) != row:
        return None
    return _Dense((*chain, reshape), weight, np.broadcast_to(bias, row)[0], (channels, height, width))

# SPDX-License-Identifier: Apache-2.0
"""The last layer of a generator, as one of gantk's own functions."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gantk.export.rewrites.graphs import (
    CHANNELS_LAST,
    Replacement,
    attribute,
    constant,
    drop_unused_weights,
    ints,
    is_explicit,
    only_user,
    optional,
)

MOST_CHANNELS = 8
"""Of the picture: what a product on tensor cores is wide."""

PACK = 8
"""Of the features' channels there is a multiple: 16 bytes of float16."""


def picture_to_native(graph: ir.Model) -> int:
    """Let `gantk::ToPicture` make the picture of a DCGAN's last features, from before their bias to after Tanh.

    For a transposed convolution to three channels cuDNN reckons with eight and copies three of them, and what follows
    are passes over the whole picture; all of it took half of a generator's time for 128 pixels on an H200.

    Returns:
        The number of layers turned.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        relu, tanh, weights = node.inputs[0], only_user(node.outputs[0]), constant(node.inputs[1])
        if tanh is None or tanh.op_type != "Tanh" or weights is None or not _is_doubling(node, weights.shape):
            continue
        active = relu.producer() if relu is not None else None
        if active is None or active.op_type != "Relu":
            continue
        bias = constant(optional(node, 2))
        if bias is None and optional(node, 2) is not None:
            continue
        new = Replacement(graph.graph, node)
        features, before = _without_bias(new, active, weights.shape[0])
        last = new.transposed(features, CHANNELS_LAST)
        added = new.weight("bias", np.zeros(weights.shape[1], np.float32) if bias is None else bias)
        picture = new.call(graph, "ToPicture", [last, before, node.inputs[1], added])
        picture.type, picture.shape = tanh.outputs[0].type, tanh.outputs[0].shape
        new.finish(picture, (node, tanh))
        turned += 1
    RemoveUnusedNodesPass()(graph)
    drop_unused_weights(graph.graph)
    return turned


def _is_doubling(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Whether a convolution is of 4 x 4, stride 2 and padding 1, and has numbers of channels that the kernel takes."""
    if len(shape) != 4 or shape[2:] != (4, 4) or shape[0] % PACK or shape[1] > MOST_CHANNELS:
        return False
    plain = attribute(node, "group", 1) == 1 and is_explicit(node) and not ints(node, "output_shape")
    unmoved = ints(node, "output_padding") in ([], [0, 0]) and ints(node, "dilations") in ([], [1, 1])
    return plain and unmoved and ints(node, "strides") == [2, 2] and ints(node, "pads") == [1, 1, 1, 1]


def _without_bias(new: Replacement, active: ir.Node, channels: int) -> tuple[ir.Value, ir.Value]:
    """What a ReLU is of before a bias was added, and the bias: of the convolution before it, or zeros."""
    features = active.inputs[0]
    assert features is not None
    made_by = features.producer()
    alone = only_user(features) == active and only_user(active.outputs[0]) is not None
    if alone and made_by is not None and made_by.op_type == "ConvTranspose":
        bias = constant(optional(made_by, 2))
        if bias is not None:
            made_by.resize_inputs(2)
            return features, new.weight("before", bias)
    return features, new.weight("before", np.zeros(channels, np.float32))

# SPDX-License-Identifier: Apache-2.0
"""What follows a transposed convolution of a generator, as one of gantk's own functions."""

from __future__ import annotations

import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Replacement,
    constant,
    drop_unused_weights,
    only_user,
    optional,
)


def bias_relu_to_native(graph: ir.Model) -> int:
    """Let `gantk::BiasRelu` add the bias of transposed convolutions and rectify, in one pass with channels last.

    ONNX Runtime does it in two, and has cuDNN add the bias, which takes several times as long as its own pass.

    Returns:
        The number of convolutions that lost theirs.
    """
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        bias, relu, weight = constant(optional(node, 2)), only_user(node.outputs[0]), node.inputs[1]
        if bias is None or relu is None or relu.op_type != "Relu":
            continue
        if weight is None or weight.shape is None or len(weight.shape) != 4:
            continue
        new = Replacement(graph.graph, node)
        sums = new.add("ConvTranspose", node.inputs[:2], "sums", **node.attributes)
        last = new.transposed(sums, CHANNELS_LAST)
        result = new.call(graph, "BiasRelu", [last, new.weight("bias", bias)])
        result.type = node.outputs[0].type
        new.finish(new.transposed(result, CHANNELS_FIRST), (node, relu))
        turned += 1
    drop_unused_weights(graph.graph)
    return turned

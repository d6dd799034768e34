# SPDX-License-Identifier: Apache-2.0
"""What instance normalisation makes superfluous: a bias before it, and where it is summed in float32, casts."""

from __future__ import annotations

import onnx_ir as ir

from gantk.export.precision import IN_HALF
from gantk.export.rewrites.graphs import drop_unused_weights, only_user, optional

_NORM = "InstanceNormalization"
_CONVOLUTIONS = ("Conv", "ConvTranspose")


def normalized_bias(graph: ir.Model) -> int:
    """Drop the bias of each convolution that is normalised next: whatever it is, the mean takes it out.

    cuDNN adds a bias in a pass of its own over the tensor.

    Returns:
        The number of convolutions that lost theirs.
    """
    dropped = 0
    for node in graph.graph:
        user = only_user(node.outputs[0]) if node.op_type in _CONVOLUTIONS and optional(node, 2) else None
        if user is not None and user.op_type == _NORM:
            node.resize_inputs(2)
            node.outputs[0].name = f"{node.outputs[0].name}.unbiased"
            dropped += 1
    drop_unused_weights(graph.graph)
    return dropped


def normalization_in_half(graph: ir.Model) -> int:
    """Mark instance normalisations, so that a fp16 file has them in fp16 and not as islands between casts.

    For ONNX Runtime's CUDA kernel, which takes float16 and keeps mean and variance in float32 itself. Elsewhere their
    sums may overflow.

    Returns:
        The number of normalisations marked.
    """
    nodes = [node for node in graph.graph if node.op_type == _NORM]
    for node in nodes:
        node.metadata_props[IN_HALF] = "true"
    return len(nodes)

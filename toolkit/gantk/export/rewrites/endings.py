# SPDX-License-Identifier: Apache-2.0
"""What follows a convolution and a native one does itself: ReLU, PReLU, LeakyReLU, and a sum with other pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Float64,
    Replacement,
    by_channel,
    is_as_large,
    only_user,
    other_input,
    with_relu,
)


@dataclass(frozen=True)
class Ending:
    """What a function takes in after a convolution.

    Args:
        nodes: The convolution, and what alone reads its result, if it is taken in.
        name: What that adds to the name of the function.
        slopes: Of each channel, what negative results are multiplied with.
        others: What is added.
    """

    nodes: tuple[ir.Node, ...]
    name: str = ""
    slopes: Float64 | None = None
    others: ir.Value | None = None

    @property
    def place(self) -> ir.Node:
        """The node whose place the function takes: others may be computed after the convolution."""
        return self.nodes[0] if self.others is None else self.nodes[-1]

    def inputs(self, new: Replacement) -> list[ir.Value]:
        """What the function takes beside features, weights and bias."""
        if self.slopes is not None:
            return [new.weight("slopes", self.slopes)]
        return [] if self.others is None else [new.transposed(self.others, CHANNELS_LAST)]


def ending_of(convolution: ir.Node, channels: int) -> Ending:
    """What may be taken in after a convolution with so many results."""
    chain, name = with_relu(convolution)
    result = convolution.outputs[0]
    user = only_user(result)
    if name or user is None:
        return Ending(chain, name)
    chain = (convolution, user)
    slopes = slopes_of(user, channels)
    if slopes is not None:
        return Ending(chain, "PRelu", slopes=slopes)
    if user.op_type == "Add" and is_as_large(other_input(user, result), result):
        return Ending(chain, "Sum", others=other_input(user, result))
    return Ending((convolution,))


def slopes_of(node: ir.Node, channels: int) -> Float64 | None:
    """What a node multiplies negative values of each channel with; `None` where it does not, or not alike in each."""
    if node.op_type == "LeakyRelu":
        alpha = node.attributes["alpha"].as_float() if "alpha" in node.attributes else 0.01
        return np.full(channels, alpha)
    return by_channel(node.inputs[1], channels) if node.op_type == "PRelu" else None


def slopes_to_native(graph: ir.Model, node: ir.Node) -> None:
    """Let what multiplies the negative values of pictures, and no convolution has taken in, be native too."""
    pictures = node.inputs[0] if node.op_type in ("LeakyRelu", "PRelu") else None
    if pictures is None or pictures.shape is None or len(pictures.shape) != 4:
        return
    channels = pictures.shape[1]
    slopes = slopes_of(node, channels) if isinstance(channels, int) else None
    if slopes is None:
        return
    new = Replacement(graph.graph, node)
    last = new.transposed(pictures, CHANNELS_LAST)
    last.type, last.shape = pictures.type, ir.Shape([pictures.shape[axis] for axis in CHANNELS_LAST])
    result = new.call(graph, "NhwcPRelu", [last, new.weight("slopes", slopes)])
    result.type, result.shape = last.type, last.shape
    new.finish(new.transposed(result, CHANNELS_FIRST))

# SPDX-License-Identifier: Apache-2.0
"""Scales folded into convolutions: a network that takes and returns pixels multiplies nothing but weights.

Pixels are whole numbers from 0 to 255, which fp16 and bf16 hold exactly; their 255th parts are not.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

SCALED = ".scaled"
"""Ends the names of tensors that hold another multiple of what the tracer saw under the name before."""

_MOVES = ("Pad", "Slice", "Transpose")
"""Operators that move values about, and so let a factor pass."""


def fold_scales(graph: ir.Model) -> int:
    """Fold multiplications by one constant into the convolution before or after them, where one is in reach.

    Between the two may be operators that only move values about: ``k * pad(x)`` is ``pad(k * x)``, unless it
    pads with a constant.

    Returns:
        The number of multiplications that are gone.
    """
    folded = 0
    for node in [node for node in graph.graph if node.op_type == "Mul"]:
        factor, value = _factor(node)
        if factor is None or value is None:
            continue
        convolution, between = _convolution_after(node) or _convolution_before(value) or (None, [])
        if convolution is None:
            continue
        after = convolution in [user for user, _ in (between[-1] if between else node).outputs[0].uses()]
        _scale(graph.graph, convolution, factor, bias=not after)
        _remove(graph.graph, node, value, between if after else [convolution, *between])
        folded += 1
    return folded


def _factor(node: ir.Node) -> tuple[float | None, ir.Value | None]:
    """The constant of a multiplication, and what it multiplies."""
    for constant, other in ((node.inputs[1], node.inputs[0]), (node.inputs[0], node.inputs[1])):
        if constant is not None and constant.const_value is not None and constant.const_value.size == 1:
            return float(constant.const_value.numpy().reshape(())), other
    return None, None


def _convolution_after(node: ir.Node) -> tuple[ir.Node, list[ir.Node]] | None:
    """The convolution that alone uses what a node yields, and the nodes between that only move values."""
    between: list[ir.Node] = []
    while True:
        output = (between[-1] if between else node).outputs[0]
        users = [user for user, index in output.uses() if index == 0]
        if len(output.uses()) != 1 or not users or output.is_graph_output():
            return None
        if users[0].op_type == "Conv":
            return (users[0], between) if _constant_weights(users[0]) else None
        if not _only_moves(users[0]):
            return None
        between.append(users[0])


def _convolution_before(value: ir.Value) -> tuple[ir.Node, list[ir.Node]] | None:
    """The convolution whose output is used only to yield `value`, and the nodes between that only move values."""
    between: list[ir.Node] = []
    while True:
        producer = value.producer()
        if producer is None or len(value.uses()) != 1 or value.is_graph_output():
            return None
        if producer.op_type == "Conv":
            return (producer, between) if _constant_weights(producer) else None
        if not _only_moves(producer) or producer.inputs[0] is None:
            return None
        between.insert(0, producer)
        value = producer.inputs[0]


def _only_moves(node: ir.Node) -> bool:
    mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "constant"
    return node.op_type in _MOVES and (node.op_type != "Pad" or mode != "constant")


def _constant_weights(convolution: ir.Node) -> bool:
    return all(value is None or value.const_value is not None for value in convolution.inputs[1:])


def _scale(graph: ir.Graph, convolution: ir.Node, factor: float, *, bias: bool) -> None:
    """Multiply the weights of a convolution, and its bias where its output is to be scaled and not its input."""
    for index in (1, 2) if bias else (1,):
        value = convolution.inputs[index] if index < len(convolution.inputs) else None
        if value is None:
            continue
        assert value.const_value is not None and value.name is not None
        scaled = (value.const_value.numpy().astype(np.float64) * factor).astype(np.float32)
        name = f"{value.name}{SCALED}"
        while name in graph.initializers:  # Another convolution has the same weights.
            name += SCALED
        weight = ir.Value(
            name=name, shape=value.shape, type=value.type, const_value=ir.Tensor(scaled, name=name)
        )
        graph.register_initializer(weight)
        convolution.replace_input_with(index, weight)
        if not value.uses() and value.name in graph.initializers:
            del graph.initializers[value.name]


def _remove(graph: ir.Graph, node: ir.Node, value: ir.Value, scaled: list[ir.Node]) -> None:
    """Take a multiplication out; what now holds another multiple than before gets another name."""
    for other in scaled:
        other.outputs[0].name = f"{other.outputs[0].name}{SCALED}"
    output = node.outputs[0]
    if scaled and scaled[-1].outputs[0] is value:
        value.name = output.name
    output.replace_all_uses_with(value, replace_graph_outputs=True)
    constants = [given for given in node.inputs if given is not None and given.const_value is not None]
    graph.remove(node, safe=True)
    for constant in constants:  # ONNX Runtime warns of one that nothing uses whenever the file is loaded.
        if not (constant.uses() or constant.is_graph_output()) and constant.name in graph.initializers:
            del graph.initializers[constant.name]

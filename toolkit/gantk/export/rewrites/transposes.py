# SPDX-License-Identifier: Apache-2.0
"""Transposes between layouts, moved behind what is computed in either, so that opposite ones meet and vanish."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.graphs import CHANNELS_FIRST, CHANNELS_LAST, Replacement, constant, ints, optional

ELEMENTWISE = frozenset(
    {"Abs", "Add", "Cast", "Clip", "Div", "Identity", "LeakyRelu", "Mul", "Neg", "Relu", "Round", "Sigmoid"}
    | {"Sub", "Tanh"}
)
"""What computes each value for itself, whatever the layout."""


def move_transposes(graph: ir.Graph) -> None:
    """Move transposes behind what either layout can compute, so that opposite ones cancel; keep one of equal ones."""
    made: dict[tuple[ir.Value | None, tuple[int, ...]], ir.Value] = {}
    for node in list(graph):
        if node.op_type == "Transpose":
            _cancel(graph, node)
            first = made.setdefault((node.inputs[0], tuple(ints(node, "perm"))), node.outputs[0])
            if first is not node.outputs[0] and not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(first)
        elif node.domain == "" and node.op_type in (*ELEMENTWISE, "Slice"):
            _sink(graph, node)


def _cancel(graph: ir.Graph, node: ir.Node) -> None:
    """Let a transpose that undoes another be what that one reads."""
    value = node.inputs[0]
    before = None if value is None else value.producer()
    if before is None or before.op_type != "Transpose":
        return
    source, old = before.inputs[0], node.outputs[0]
    first, second = ints(before, "perm"), ints(node, "perm")
    if source is None or not second or len(first) != len(second):
        return
    if [first[axis] for axis in second] != sorted(second):
        return
    if not old.is_graph_output():
        old.replace_all_uses_with(source)
    elif source.producer() is not None and not source.is_graph_output():
        Replacement(graph, node).stand_for(old, source)


def _sink(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node that reads only transposes of channels last compute in that layout, and transpose its result."""
    sources = [_source(value) for value in node.inputs]
    if sources[0] is None and not any(sources):
        return
    if node.op_type == "Slice":
        axes = _cut_axes(node)
        if axes is None or sources[0] is None:
            return
        new = Replacement(graph, node)
        moved = new.weight("axes", np.array([CHANNELS_FIRST[axis] for axis in axes]))
        inputs = [sources[0], *node.inputs[1:3], moved, *node.inputs[4:]]
    elif all(source or _is_scalar(value) for source, value in zip(sources, node.inputs, strict=True)):
        new = Replacement(graph, node)
        inputs = [source or value for source, value in zip(sources, node.inputs, strict=True)]
    else:
        return
    old = node.outputs[0]
    value = new.add(node.op_type, inputs, "last", **node.attributes)
    value.type, value.shape = old.type, transposed_shape(old.shape, CHANNELS_LAST)
    new.finish(new.transposed(value, CHANNELS_FIRST))


def _source(value: ir.Value | None) -> ir.Value | None:
    """The pictures with channels last that a value is a transpose of."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Transpose" or ints(node, "perm") != CHANNELS_FIRST:
        return None
    return node.inputs[0]


def _cut_axes(cut: ir.Node) -> list[int] | None:
    """The axes that are cut, where they are known."""
    starts, axes = optional(cut, 1), optional(cut, 3)
    if axes is None:
        known = None if starts is None or starts.shape is None else starts.shape[0]
        return list(range(known)) if isinstance(known, int) else None
    numbers = constant(axes)
    return None if numbers is None else [int(axis) % 4 for axis in numbers]


def _is_scalar(value: ir.Value | None) -> bool:
    """Whether an operand is one number, or is left out."""
    number = constant(value)
    return value is None or (number is not None and number.size == 1)


def transposed_shape(shape: ir.Shape | None, axes: list[int]) -> ir.Shape | None:
    """The shape after a transpose, where it is known and of as many axes."""
    return None if shape is None or len(shape) != len(axes) else ir.Shape([shape[axis] for axis in axes])

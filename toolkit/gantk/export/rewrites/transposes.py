# SPDX-License-Identifier: Apache-2.0
"""Transposes between layouts, moved behind what is computed in either, so that opposite ones meet and vanish."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from gantk.export.rewrites.enlarged import times_as_large
from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Replacement,
    attribute,
    axes_of,
    channels_of,
    constant,
    ints,
    optional,
    text,
)

ELEMENTWISE = frozenset({
    "Abs", "Add", "Cast", "Clip", "Cos", "Div", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity",
    "LeakyRelu", "Log", "Max", "Min", "Mish", "Mul", "Neg", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Softplus", "Softsign", "Sqrt", "Sub", "Tanh", "ThresholdedRelu",
})  # fmt: skip
"""What computes each value for itself, whatever the layout."""


def move_transposes(graph: ir.Graph) -> None:
    """Move transposes behind what either layout can compute, so that opposite ones cancel; keep one of equal ones."""
    for node in list(graph):
        if node.op_type == "Transpose":
            _cancel(graph, node)
        elif node.op_type == "Squeeze":
            _squeeze(graph, node)
        elif node.domain == "" and any(map(_source, node.inputs)):
            _sink(graph, node)
    made: dict[tuple[ir.Value | None, tuple[int, ...]], ir.Value] = {}
    for node in graph:
        if node.op_type == "Transpose":
            first = made.setdefault((node.inputs[0], tuple(ints(node, "perm"))), node.outputs[0])
            if first is not node.outputs[0] and not node.outputs[0].is_graph_output():
                node.outputs[0].replace_all_uses_with(first)


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


def _squeeze(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node that takes rows and columns out of pictures of one pixel do so of channels last."""
    source, sides = _source(node.inputs[0]), constant(optional(node, 1))
    if source is not None and sides is not None and sides.tolist() == [2, 3]:
        new = Replacement(graph, node)
        new.finish(new.add("Squeeze", [source, new.weight("sides", np.array([1, 2]))], "last"))


def _sink(graph: ir.Graph, node: ir.Node) -> None:
    """Let a node that reads transposes of channels last compute in that layout, and transpose its result."""
    turn = _value_by_value if node.op_type in ELEMENTWISE else _TURNS.get(node.op_type)
    new = Replacement(graph, node)
    value = None if turn is None else turn(new, node)
    if value is None:
        return
    old = node.outputs[0]
    value.type, value.shape = old.type, transposed_shape(old.shape, CHANNELS_LAST)
    new.finish(new.transposed(value, CHANNELS_FIRST))


def _value_by_value(new: Replacement, node: ir.Node) -> ir.Value | None:
    return _with_operands(new, node, **node.attributes)


def _joined(new: Replacement, node: ir.Node) -> ir.Value | None:
    """Concat, along the same axis at its other place."""
    return _with_operands(new, node, axis=CHANNELS_FIRST[attribute(node, "axis", 1) % 4])


def _with_operands(new: Replacement, node: ir.Node, **attributes: int | ir.Attr) -> ir.Value | None:
    """The same node of operands with channels last."""
    operands = [_operand(new, value) for value in node.inputs]
    if any(operand is None and value for operand, value in zip(operands, node.inputs, strict=True)):
        return None
    return new.add(node.op_type, operands, "last", **attributes)


def _operand(new: Replacement, value: ir.Value | None) -> ir.Value | None:
    """An operand with channels last: before its transpose, or transposed; `None` where its axes are not known."""
    source = _source(value)
    if source is not None or value is None:
        return source
    if value.const_value is not None:
        return _constant_operand(new, value)
    if value.shape is None or len(value.shape) not in (0, 4):
        return None
    if len(value.shape) == 0:
        return value
    return last_of(new, value)


def _constant_operand(new: Replacement, value: ir.Value) -> ir.Value | None:
    array = constant(value)
    assert array is not None
    if array.size == 1 and array.ndim <= 4:
        return value
    if array.ndim > 4 or value.dtype != ir.DataType.FLOAT:
        return None
    of_four = array.reshape((1,) * (4 - array.ndim) + array.shape)
    return new.weight(f"{value.name}.last", of_four.transpose(CHANNELS_LAST))


def _cut(new: Replacement, node: ir.Node) -> ir.Value | None:
    """Slice, of the same axes at their other places."""
    source, axes = _source(node.inputs[0]), _cut_axes(node)
    if axes is None or source is None:
        return None
    moved = new.weight("axes", np.array([CHANNELS_FIRST[axis] for axis in axes]))
    return new.add("Slice", [source, *node.inputs[1:3], moved, *node.inputs[4:]], "last")


def _resized(new: Replacement, node: ir.Node) -> ir.Value | None:
    """Resize by factors or to sizes that are known; what ONNX Runtime has of channels last."""
    source, known = _source(node.inputs[0]), text(node, "mode", "nearest") in ("nearest", "linear")
    times, channels = times_as_large(node), channels_of(node.inputs[0])
    if source is not None and times is not None and channels is not None:
        return _repeated(new, source, times, channels)
    if source is None or not known or ints(node, "axes") or optional(node, 1) is not None:
        return None
    inputs: list[ir.Value | None] = [source, None]
    for index, name in ((2, "scales"), (3, "sizes")):
        value, numbers = optional(node, index), constant(optional(node, index))
        if value is not None and (numbers is None or len(numbers) != 4):
            return None
        turned = (
            None if numbers is None else numbers[CHANNELS_LAST].astype(np.float32 if index == 2 else np.int64)
        )
        inputs.append(None if turned is None else new.weight(name, turned))
    return new.add("Resize", inputs, "last", **node.attributes)


def _repeated(new: Replacement, source: ir.Value, times: tuple[int, int], channels: int) -> ir.Value:
    """Rows and columns of pictures with channels last, each so many times: runs of values that are copied."""
    value = source
    for name, count, apart, axis in (
        ("rows", times[0], [0, 0, 1, -1], 2),
        ("columns", times[1], [-1, 1, channels], 1),
    ):
        if count == 1:
            continue
        runs = new.add("Reshape", [value, new.weight(f"{name}.apart", np.array(apart))], f"{name}.apart")
        runs.type, runs.shape = source.type, ir.Shape([None] * len(apart))
        value = new.add("Concat", [runs] * count, name, axis=axis)
        value.type, value.shape = source.type, ir.Shape([None] * len(apart))
    return new.add("Reshape", [value, _grown_shape(new, source, times, channels)], "last")


def _grown_shape(new: Replacement, source: ir.Value, times: tuple[int, int], channels: int) -> ir.Value:
    """The shape of pictures with channels last that have so many times as many rows and columns, and other channels."""
    sides = new.add("Shape", [source], "sides", start=0, end=3)
    grown = new.add("Mul", [sides, new.weight("blocks", np.array([1, *times]))], "grown")
    shape = new.add("Concat", [grown, new.weight("channels", np.array([channels]))], "shape", axis=0)
    for value in (sides, grown, shape):
        value.type = ir.TensorType(ir.DataType.INT64)
    return shape


def _spread(new: Replacement, node: ir.Node) -> ir.Value | None:
    """DepthToSpace, as a transpose of pixels and the blocks of them that channels are."""
    source = _source(node.inputs[0])
    depth = None if node.inputs[0] is None or node.inputs[0].shape is None else node.inputs[0].shape[1]
    if source is None or not isinstance(depth, int):
        return None
    block = attribute(node, "blocksize", 1)
    channels = depth // block**2
    by_block = text(node, "mode", "DCR") == "DCR"
    parts = [block, block, channels] if by_block else [channels, block, block]
    split = new.add("Reshape", [source, new.weight("split", np.array([0, 0, 0, *parts]))], "split")
    order = [0, 1, 3, 2, 4, 5] if by_block else [0, 1, 4, 2, 5, 3]
    turned = new.add("Transpose", [split], "turned", perm=order)
    shape = _grown_shape(new, source, (block, block), channels)
    for value in (split, turned):
        value.type, value.shape = source.type, ir.Shape([None] * 6)
    return new.add("Reshape", [turned, shape], "last")


def _reduced(new: Replacement, node: ir.Node) -> ir.Value | None:
    """A sum, mean or maximum, along the same axes at their other places."""
    source = _source(node.inputs[0])
    axes = [2, 3] if node.op_type in _WHOLE_PICTURES else axes_of(node)
    if source is None or not axes or not attribute(node, "keepdims", 1):
        return None
    moved = new.weight("axes", np.array(sorted(CHANNELS_FIRST[axis % 4] for axis in axes)))
    return new.add(_WHOLE_PICTURES.get(node.op_type, node.op_type), [source, moved], "last", keepdims=1)


_WHOLE_PICTURES = {"GlobalAveragePool": "ReduceMean", "GlobalMaxPool": "ReduceMax"}
"""What is made of each channel of a picture, and the reduction that it is."""

_TURNS: dict[str, Callable[[Replacement, ir.Node], ir.Value | None]] = {
    "Concat": _joined,
    "DepthToSpace": _spread,
    **dict.fromkeys((*_WHOLE_PICTURES, "ReduceMax", "ReduceMean", "ReduceSum"), _reduced),
    "Resize": _resized,
    "Slice": _cut,
}
"""What moves values about, and so does it along other axes."""


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


def last_of(new: Replacement, value: ir.Value | None) -> ir.Value:
    """Pictures with channels last."""
    assert value is not None
    last = new.transposed(value, CHANNELS_LAST)
    last.type, last.shape = value.type, transposed_shape(value.shape, CHANNELS_LAST)
    return last


def transposed_shape(shape: ir.Shape | None, axes: list[int]) -> ir.Shape | None:
    """The shape after a transpose, where it is known and of as many axes."""
    return None if shape is None or len(shape) != len(axes) else ir.Shape([shape[axis] for axis in axes])

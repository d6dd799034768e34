# SPDX-License-Identifier: Apache-2.0
"""Paddings and sizes so that ONNX Runtime computes nothing of them on a GPU when it lays pictures out channels last.

Before it changes layouts it sees which small integers stay on the CPU, afterwards it does not: it takes them to the GPU
and back, for which a run waits, and no CUDA graph holds that.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from gantk.export.rewrites.graphs import (
    CHANNELS_FIRST,
    CHANNELS_LAST,
    Replacement,
    attribute,
    constant,
    ints,
    optional,
    text,
)

_WITH_ENDS = ("Slice", "InstanceNorm", "InstanceNormRelu", "InstanceNormSum")
"""What takes the ends of a cut as its third input."""


def is_shape_of_sides(node: ir.Node) -> bool:
    """Whether a node tells heights and widths, of channels first."""
    return node.op_type == "Shape" and (attribute(node, "start", 0), attribute(node, "end", 0)) == (2, 4)


def pad_channels_last(graph: ir.Graph) -> None:
    """Move paddings, and what asks for sizes, from behind a transpose to channels first to before it.

    ONNX Runtime would do so itself, and reorder amounts that are not constant on the GPU.
    """
    order = np.array([*CHANNELS_LAST, *(4 + axis for axis in CHANNELS_LAST)])
    for node in list(graph):
        transpose = None if not node.inputs or node.inputs[0] is None else node.inputs[0].producer()
        if transpose is None or transpose.op_type != "Transpose" or ints(transpose, "perm") != CHANNELS_FIRST:
            continue
        new = Replacement(graph, node)
        if node.op_type == "Pad" and optional(node, 3) is None:
            amounts = new.add("Gather", [node.inputs[1], new.weight("order", order)], "amounts", axis=0)
            padded = new.add(
                "Pad",
                [transpose.inputs[0], amounts, *node.inputs[2:]],
                "last",
                mode=text(node, "mode", "constant"),
            )
            new.finish(new.transposed(padded, CHANNELS_FIRST))
        elif is_shape_of_sides(node):
            new.finish(new.add("Shape", [transpose.inputs[0]], "sides", start=1, end=3))


@dataclass(frozen=True)
class _Sizes:
    """Heights and widths as a factor and a growth of those that a shape tells."""

    shape: ir.Value
    factor: int
    growth: NDArray[np.int64]


def sizes_to_native(graph: ir.Model) -> None:
    """Compute the ends of cuts that come from a shape by `gantk::Sizes`."""
    for node in list(graph.graph):
        if node.op_type not in _WITH_ENDS or len(node.inputs) < 3:
            continue
        sizes = _sizes(node.inputs[2])
        if sizes is None or sizes.shape is node.inputs[2]:
            continue
        ends = sizes.shape
        if sizes.factor != 1 or sizes.growth.any():
            new = Replacement(graph.graph, node)
            ends = new.call(graph, "Sizes", [sizes.shape], factor=sizes.factor, growth=sizes.growth.tolist())
            ends.type, ends.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([2])
            new.insert()
        node.replace_input_with(2, ends)


def _sizes(value: ir.Value | None) -> _Sizes | None:
    """A value as a factor and a growth of a shape's two sizes; `None` where it is none."""
    node = None if value is None else value.producer()
    if value is None or node is None:
        return None
    if node.op_type == "Shape" and attribute(node, "end", 0) - attribute(node, "start", 0) == 2:
        return _Sizes(value, 1, np.zeros(2, np.int64))
    number = constant(node.inputs[1]) if node.op_type in ("Add", "Mul") else None
    before = None if number is None else _sizes(node.inputs[0])
    if before is None or number is None or number.shape != (2,):
        return None
    if node.op_type == "Add":
        return _Sizes(before.shape, before.factor, before.growth + number.astype(np.int64))
    factor = int(number[0])
    same = bool((number == factor).all())
    return _Sizes(before.shape, before.factor * factor, before.growth * factor) if same else None

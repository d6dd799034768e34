# SPDX-License-Identifier: Apache-2.0
"""Which rows of a picture each tensor of a network depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import numpy_helper

from gantk.errors import GantkError

_ELEMENTWISE = {
    "Abs", "Add", "Cast", "Clip", "Div", "Identity", "InstanceNormalization", "LeakyRelu", "Max", "Min", "Mul",
    "PRelu", "Relu", "Round", "Sigmoid", "Sub", "Tanh",
}  # fmt: skip


@dataclass(frozen=True)
class Rows:
    """Row i of a tensor depends on rows i * scale + first ... (i + 1) * scale - 1 + last of the picture.

    Args:
        scale: Rows of the picture to one row of the tensor.
        axis: Which axis of the tensor counts rows.
        first: At most 0 where rows above are needed.
        last: Positive where rows below are needed.
    """

    scale: int
    axis: int
    first: int = 0
    last: int = 0


class Geometry:
    """The constants of a graph, and how its operators move rows.

    Args:
        graph: An ONNX graph whose spatial operators are those of `_moved`.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and attribute.name == "value":
                    self._constants[node.output[0]] = attribute.t

    def propagate(self, nodes: Iterable[onnx.NodeProto], sources: Mapping[str, Rows]) -> dict[str, Rows]:
        """The rows of every tensor that `nodes`, in order, make of `sources`.

        Raises:
            GantkError: An operator mixes rows in a way that is not known here, or all of them.
        """
        known = dict(sources)
        for node in nodes:
            inputs = [known[name] for name in node.input if name in known]
            if not inputs or node.op_type == "Shape":
                continue
            joined = _joined(node, inputs)
            known[node.output[0]] = self._moved(node, joined)
        return known

    def _moved(self, node: onnx.NodeProto, rows: Rows) -> Rows:
        if node.op_type in _ELEMENTWISE:
            return rows
        if node.op_type == "Transpose":
            return replace(rows, axis=list(_ints(node, "perm")).index(rows.axis))
        if node.op_type == "Pad":
            above = int(self._values(node, 1)[rows.axis]) * rows.scale
            return replace(rows, first=rows.first - above, last=rows.last - above)
        if node.op_type in ("Conv", "MaxPool", "AveragePool") and rows.axis == 2:
            return self._convolved(node, rows)
        if node.op_type == "Resize" and _text(node, "mode") == "nearest":
            return self._enlarged(node, rows)
        if node.op_type == "Slice" and self._starts_at_top(node, rows.axis):
            return rows
        raise GantkError(
            f"operator {node.op_type} cannot be run in strips of a picture",
            where=node.name or node.output[0],
            hint="--size makes the picture small enough to be run whole, --memory allows it more",
        )

    def _convolved(self, node: onnx.NodeProto, rows: Rows) -> Rows:
        """Also pooling, which rounds up or down at the picture's end alone."""
        kernel = (
            self._constants[node.input[1]].dims[2]
            if node.op_type == "Conv"
            else _ints(node, "kernel_shape")[0]
        )
        stride = (_ints(node, "strides") or [1])[0]
        reach = (kernel - 1) * (_ints(node, "dilations") or [1])[0]
        above = (_ints(node, "pads") or [0])[0]
        return Rows(
            rows.scale * stride,
            rows.axis,
            rows.first - above * rows.scale,
            rows.last + (reach - above) * rows.scale + rows.scale - rows.scale * stride,
        )

    def _enlarged(self, node: onnx.NodeProto, rows: Rows) -> Rows:
        factor = int(self._values(node, 2)[rows.axis])
        scale, left = divmod(rows.scale, factor)
        if left:
            raise GantkError(f"the network enlarges {factor} times what was not reduced", where=node.name)
        inside = (factor - 1) * scale
        return Rows(scale, rows.axis, rows.first - inside, rows.last + inside)

    def _starts_at_top(self, node: onnx.NodeProto, axis: int) -> bool:
        starts = self._values(node, 1)
        axes = self._values(node, 3) if len(node.input) > 3 else np.arange(len(starts))
        return all(start == 0 for start, cut in zip(starts, axes, strict=True) if cut == axis)

    def _values(self, node: onnx.NodeProto, index: int) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        name = node.input[index]
        if name not in self._constants:
            raise GantkError(f"an operator {node.op_type} has sizes that are not constant", where=node.name)
        return np.asarray(numpy_helper.to_array(self._constants[name]), np.float64)


def _joined(node: onnx.NodeProto, inputs: list[Rows]) -> Rows:
    """What an operator of several tensors depends on."""
    if len({(rows.scale, rows.axis) for rows in inputs}) > 1:
        raise GantkError(f"operator {node.op_type} joins tensors of different sizes", where=node.name)
    first, last = min(rows.first for rows in inputs), max(rows.last for rows in inputs)
    return replace(inputs[0], first=first, last=last)


def _ints(node: onnx.NodeProto, name: str) -> list[int]:
    return next((list(a.ints) for a in node.attribute if a.name == name), [])


def _text(node: onnx.NodeProto, name: str) -> str:
    return next((a.s.decode() for a in node.attribute if a.name == name), "")

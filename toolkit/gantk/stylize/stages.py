# SPDX-License-Identifier: Apache-2.0
"""A style network cut into stages, each of which ends where statistics of the whole picture are wanted."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gantk.errors import GantkError
from gantk.stylize.geometry import Geometry, Rows
from gantk.stylize.statistics import STATISTICS, Norm, give_statistics, measuring_nodes

MEAN, VARIANCE, SIZE, ROWS = "gantk.mean", "gantk.variance", "gantk.size", "gantk.rows"

_OPSET = 18
_AXIS = 2


@dataclass(frozen=True)
class Stage:
    """A part of the network, to be run once over all strips of a picture.

    Args:
        data: The part as an ONNX file. Beside tensors of earlier stages it takes the picture's strip, the
            statistics of all layers before, and ``gantk.rows`` int64[2]: the first row that counts and the
            first one after, in rows of the picture below the strip's first.
        sources: The tensors that it takes a strip of, with their scales: the picture, or what was kept.
        kept: The tensors that it makes and that later stages take, with their scales.
        dropped: The tensors that no later stage takes.
        norm: The layer whose statistics it measures; the last stage has none and makes the stylised picture.
        above: How many rows of the picture above its own a strip needs.
        below: How many below.
        pixel_bytes: What a strip takes of memory for each pixel of the picture, about.
    """

    data: bytes
    sources: dict[str, int]
    kept: dict[str, int]
    dropped: tuple[str, ...]
    norm: Norm | None
    above: int
    below: int
    pixel_bytes: float


@dataclass(frozen=True)
class Plan:
    """All stages, in order.

    Args:
        prelude: The part that depends on other inputs than the picture, as an ONNX file to be run once before;
            its outputs are inputs of the stages. `None` where there is none.
        stages: One for each normalisation, and the last.
        norms: The normalisations.
        stride: Rows of the picture to one row of the smallest tensor; strips begin at multiples of it.
    """

    prelude: bytes | None
    stages: tuple[Stage, ...]
    norms: tuple[Norm, ...]
    stride: int


def plan_stages(data: bytes, picture: str, output: str) -> Plan:
    """Cut a network at its instance normalisations.

    What lies at the smallest scale is kept between stages; the rest is computed again where it is wanted.

    Args:
        data: A float32 ONNX file.
        picture: The name of the picture input.
        output: The name of the stylised picture.

    Raises:
        GantkError: The network has no instance normalisation, or an operator that strips of a picture do
            not suffice for.
    """
    proto = onnx.shape_inference.infer_shapes(onnx.load_from_string(data))
    opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 0)
    if opset < _OPSET or any(node.domain not in ("", "ai.onnx") for node in proto.graph.node):
        raise GantkError(f"only networks of plain operators from opset {_OPSET} on can be run in strips")
    axis = _row_axis(proto.graph, picture)
    rows = Geometry(proto.graph).propagate(proto.graph.node, {picture: Rows(1, axis)})
    norms = give_statistics(proto)
    return _Cutter(proto, norms, rows, picture, output).plan()


class _Cutter:
    """Walks a graph backwards from each normalisation to what has been kept."""

    def __init__(
        self, proto: onnx.ModelProto, norms: list[Norm], rows: dict[str, Rows], picture: str, output: str
    ) -> None:
        self._proto, self._norms, self._rows = proto, norms, rows
        self._picture, self._output = picture, output
        self._nodes = list(proto.graph.node)
        self._maker = {name: i for i, node in enumerate(self._nodes) for name in node.output if name}
        self._stride = max(row.scale for row in rows.values())
        self._channels = _channels(proto.graph, rows)
        self._done: set[int] = set()
        self._stored: set[str] = set()
        self._values = {value.name: value for value in (*proto.graph.value_info, *proto.graph.input)}
        self._given = self._given_once()

    def plan(self) -> Plan:
        prelude = self._prelude()
        targets = [*(norm.input for norm in self._norms), self._output]
        stages = [
            self._stage(
                target, targets[index + 1 :], self._norms[index] if index < len(self._norms) else None
            )
            for index, target in enumerate(targets)
        ]
        return Plan(prelude, tuple(stages), tuple(self._norms), self._stride)

    def _given_once(self) -> set[str]:
        """What the stages take of values that depend on inputs, and on neither the picture nor its statistics."""
        inputs = {value.name for value in self._proto.graph.input}
        changing, lasting = {self._picture, STATISTICS}, inputs - {self._picture, STATISTICS}
        for node in self._nodes:
            if not changing.isdisjoint(node.input):
                changing.update(node.output)
            elif not lasting.isdisjoint(node.input):
                lasting.update(node.output)
        taken = {name for node in self._nodes if not changing.isdisjoint(node.output) for name in node.input}
        return (taken & lasting) - inputs

    def _prelude(self) -> bytes | None:
        if not self._given:
            return None
        needed, sources = self._walk(self._given, ())
        nodes = [self._nodes[index] for index in sorted(needed)]
        inputs = [self._values[name] for name in sorted(sources)]
        return self._model(nodes, inputs, [self._values[name] for name in sorted(self._given)])

    def _stage(self, target: str, later: list[str], norm: Norm | None) -> Stage:
        needed, sources = self._walk([target], self._stored | self._given)
        made = {name for index in needed for name in self._nodes[index].output} & self._rows.keys()
        self._done |= needed
        kept = {
            name for name in made if self._rows[name].scale == self._stride and self._is_wanted(name, target)
        }
        before = self._stored | kept
        self._stored = self._walk(later, before | self._given)[1] & before if later else set()
        kept &= self._stored
        nodes = [self._nodes[index] for index in sorted(needed)]
        above, below = self._halo(nodes, sources, {target, *kept})
        return Stage(
            self._extract(nodes, sources, target, kept, norm),
            {name: self._rows[name].scale for name in sorted(sources & self._rows.keys())},
            {name: self._rows[name].scale for name in sorted(kept)},
            tuple(sorted(before - self._stored - kept)),
            norm,
            above,
            below,
            self._pixel_bytes(made | sources),
        )

    def _walk(self, targets: Iterable[str], stored: Collection[str]) -> tuple[set[int], set[str]]:
        """The nodes that make `targets`, and the kept tensors and inputs of the graph that these begin with."""
        inputs = {value.name for value in self._proto.graph.input}
        needed: set[int] = set()
        sources: set[str] = set()
        pending = list(targets)
        while pending:
            name = pending.pop()
            if name in stored or name in inputs:
                sources.add(name)
            elif name in self._maker and self._maker[name] not in needed:
                needed.add(self._maker[name])
                pending += [each for each in self._nodes[self._maker[name]].input if each]
        return needed, sources

    def _is_wanted(self, name: str, target: str) -> bool:
        """Whether a node of a later stage takes a tensor."""
        return name == target or any(
            name in node.input and index not in self._done for index, node in enumerate(self._nodes)
        )

    def _halo(self, nodes: list[onnx.NodeProto], sources: set[str], targets: set[str]) -> tuple[int, int]:
        """How many rows of the picture, in whole strides, `targets` need above and below their own."""
        known = {name: Rows(row.scale, row.axis) for name, row in self._rows.items() if name in sources}
        reached = Geometry(self._proto.graph).propagate(nodes, known)
        first = min(reached[name].first for name in targets)
        last = max(reached[name].last for name in targets)
        return (max(0, -first + self._stride - 1) // self._stride * self._stride,
                max(0, last + self._stride - 1) // self._stride * self._stride)  # fmt: skip

    def _pixel_bytes(self, names: set[str]) -> float:
        """Four buffers as large as the largest tensor: what goes in, comes out, is padded and is measured."""
        sizes = [4.0 * self._channels.get(n, 3) / self._rows[n].scale ** 2 for n in names & self._rows.keys()]
        return 4.0 * max(sizes)

    def _extract(
        self, nodes: list[onnx.NodeProto], sources: set[str], target: str, kept: set[str], norm: Norm | None
    ) -> bytes:
        """The ONNX file of one stage."""
        outputs = [*_sliced(sorted(kept), self._rows)]
        added = [node for _, node in outputs]
        values = [(name, TensorProto.FLOAT, 4) for name, _ in outputs]
        constants = [_ints("gantk.stage.axes", [_AXIS])]
        if norm is not None:
            added += [_slice(target, "gantk.counted", self._rows[target])]
            added += measuring_nodes("gantk.counted", MEAN, VARIANCE)
            added.append(helper.make_node("Shape", ["gantk.counted"], [SIZE], start=2))
            values += [(MEAN, TensorProto.FLOAT, 3), (VARIANCE, TensorProto.FLOAT, 3)]
            values += [(SIZE, TensorProto.INT64, 1)]
        scales = {self._rows[name].scale for name in kept} | ({self._rows[target].scale} if norm else set())
        bounds = [node for scale in sorted(scales) for node in _bounds(scale)]
        constants += [_ints(f"gantk.scale.{scale}", [scale]) for scale in sorted(scales)]
        constants += [_ints("gantk.one", [1]), _ints("gantk.two", [2]), _ints("gantk.zero", [0])]
        graph = self._proto.graph
        inputs = [self._input(name) for name in sorted(sources)]
        if scales:
            inputs.append(helper.make_tensor_value_info(ROWS, TensorProto.INT64, [2]))
        if norm is None:
            results = [value for value in graph.output if value.name == target]
        else:
            results = [helper.make_tensor_value_info(n, kind, [None] * axes) for n, kind, axes in values]
        return self._model([*bounds, *nodes, *added], inputs, results, constants)

    def _model(
        self,
        nodes: list[onnx.NodeProto],
        inputs: list[Any],
        outputs: list[Any],
        constants: Iterable[Any] = (),
    ) -> bytes:
        used = {name for node in nodes for name in node.input}
        stored = [tensor for tensor in (*self._proto.graph.initializer, *constants) if tensor.name in used]
        graph = helper.make_graph(nodes, "stage", inputs, outputs, stored)
        opsets = list(self._proto.opset_import)
        model = helper.make_model(graph, opset_imports=opsets, ir_version=self._proto.ir_version)
        return model.SerializeToString()  # type: ignore[no-any-return]

    def _input(self, name: str) -> Any:
        """An input of the network as it is; any other tensor with names of its own for its sizes."""
        known = self._values.get(name)
        if known is not None and (name == STATISTICS or name not in self._maker):
            return known
        tensor = None if known is None else known.type.tensor_type
        kind = TensorProto.FLOAT if tensor is None else tensor.elem_type
        axes = 4 if tensor is None else len(tensor.shape.dim)
        return helper.make_tensor_value_info(name, kind, [f"{name}.{axis}" for axis in range(axes)])


def sliced_name(tensor: str) -> str:
    """What a stage calls the rows that count of a tensor that it makes."""
    return f"gantk.kept.{tensor}"


def _sliced(names: list[str], rows: Mapping[str, Rows]) -> list[tuple[str, onnx.NodeProto]]:
    return [(sliced_name(name), _slice(name, sliced_name(name), rows[name])) for name in names]


def _slice(tensor: str, output: str, rows: Rows) -> onnx.NodeProto:
    bounds = [f"gantk.first.{rows.scale}", f"gantk.end.{rows.scale}"]
    return helper.make_node("Slice", [tensor, *bounds, "gantk.stage.axes"], [output])


def _bounds(scale: int) -> list[onnx.NodeProto]:
    """Nodes that turn ``gantk.rows`` into the bounds of a tensor's rows."""
    scaled = f"gantk.rows.{scale}"
    return [
        helper.make_node("Div", [ROWS, f"gantk.scale.{scale}"], [scaled]),
        helper.make_node("Slice", [scaled, "gantk.zero", "gantk.one"], [f"gantk.first.{scale}"]),
        helper.make_node("Slice", [scaled, "gantk.one", "gantk.two"], [f"gantk.end.{scale}"]),
    ]


def _ints(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _row_axis(graph: onnx.GraphProto, picture: str) -> int:
    value = next(value for value in graph.input if value.name == picture)
    return 1 if value.type.tensor_type.elem_type == TensorProto.UINT8 else 2


def _channels(graph: onnx.GraphProto, rows: Mapping[str, Rows]) -> dict[str, int]:
    """The channels of each tensor: a convolution sets them, what follows keeps them."""
    weights = {tensor.name: tensor.dims for tensor in graph.initializer}
    known: dict[str, int] = {}
    for node in graph.node:
        if node.output[0] not in rows:
            continue
        if node.op_type == "Conv":
            known[node.output[0]] = weights[node.input[1]][0]
        else:
            known[node.output[0]] = max(
                (known.get(name, 3) for name in node.input if name in rows), default=3
            )
    return known

# SPDX-License-Identifier: Apache-2.0
"""Instance normalisation with the statistics of another picture than the one at hand, in ONNX graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gantk.errors import GantkError
from gantk.runtime.runner import Array, Runner

STATISTICS = "statistics"
MEASURED = "measured"

_PREFIX = "gantk.statistics"


@dataclass(frozen=True)
class Norm:
    """One instance normalisation.

    Args:
        input: The tensor that it normalises.
        output: What it makes of it.
        channels: Of the tensor.
        start: Where its channels begin among those of all.
    """

    input: str
    output: str
    channels: int
    start: int

    @property
    def span(self) -> slice:
        return slice(self.start, self.start + self.channels)


def give_statistics(proto: onnx.ModelProto) -> list[Norm]:
    """Let every instance normalisation of a float32 graph take its mean and variance from an input.

    The input is ``statistics`` float32[N, 2, C]: the means, then the variances, of all normalised channels, one
    layer after the other.

    Args:
        proto: Changed in place.

    Returns:
        The normalisations, in the order in which they run.

    Raises:
        GantkError: There are none.
    """
    graph = proto.graph
    norms: list[Norm] = []
    nodes: list[onnx.NodeProto] = []
    weights = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type != "InstanceNormalization":
            nodes.append(node)
            continue
        start = norms[-1].span.stop if norms else 0
        scale = weights.get(node.input[1])
        if scale is None:
            raise GantkError("an instance normalisation's scale is not constant", where=node.name)
        norms.append(Norm(node.input[0], node.output[0], scale.dims[0], start))
        nodes += _given(node, len(norms) - 1)
    if not norms:
        raise GantkError("the network has no instance normalisation", where=graph.name)
    split = helper.make_node(
        "Split",
        [STATISTICS, f"{_PREFIX}.sizes"],
        [_name(index, "both") for index in range(len(norms))],
        axis=2,
    )
    del graph.node[:]
    graph.node.extend([split, *nodes])
    _add_constants(graph, [norm.channels for norm in norms])
    shape = ["N", 2, norms[-1].span.stop]
    graph.input.append(helper.make_tensor_value_info(STATISTICS, TensorProto.FLOAT, shape))
    return norms


def add_measured(proto: onnx.ModelProto, norms: Sequence[Norm]) -> None:
    """Let a graph of `give_statistics` also yield the statistics of what its normalisations get.

    The output is ``measured`` float32[N, 2, C], in the order of ``statistics``. That of a layer is right where
    those given to all layers before it are.
    """
    graph = proto.graph
    for index, norm in enumerate(norms):
        graph.node.extend(measuring_nodes(norm.input, _name(index, "mean"), _name(index, "variance")))
        parts = [_name(index, "mean"), _name(index, "variance")]
        graph.node.append(helper.make_node("Concat", parts, [_name(index, "pair")], axis=1))
    pairs = [_name(index, "pair") for index in range(len(norms))]
    graph.node.append(helper.make_node("Concat", pairs, [MEASURED], axis=2))
    shape = ["N", 2, norms[-1].span.stop]
    graph.output.append(helper.make_tensor_value_info(MEASURED, TensorProto.FLOAT, shape))


def own_statistics(runner: Runner, data: bytes, feeds: Mapping[str, Array]) -> Array:
    """The statistics that a network itself takes of pictures: under them its other forms' outputs come out.

    Args:
        runner: Runs a graph of `give_statistics` and `add_measured`.
        data: The graph.
        feeds: Its other inputs.

    Returns:
        float32[N, 2, C].

    Raises:
        GantkError: It is no such graph, or cannot be run.
    """
    initializers = onnx.load_from_string(data).graph.initializer
    found = (numpy_helper.to_array(t) for t in initializers if t.name == f"{_PREFIX}.sizes")
    sizes = next(found, None)
    if sizes is None:
        raise GantkError("the graph takes no statistics", where=repr(runner))
    count = len(next(iter(feeds.values())))
    statistics = np.ones((count, 2, int(sizes.sum())), np.float32)
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        # A layer at a time: those of later ones, under wrong ones before, may be anything.
        span = slice(int(end - size), int(end))
        measured = runner.run({**feeds, STATISTICS: statistics})[MEASURED]
        statistics[:, :, span] = measured[:, :, span]
    return statistics


def measuring_nodes(tensor: str, mean: str, variance: str) -> list[onnx.NodeProto]:
    """Nodes that make the mean and the variance float32[N, 1, C] of a tensor [N, C, H, W], in two passes."""
    wide = f"{mean}.wide"
    off, square, spread = f"{mean}.off", f"{mean}.square", f"{variance}.wide"
    return [
        helper.make_node("ReduceMean", [tensor, f"{_PREFIX}.plane"], [wide], keepdims=1),
        helper.make_node("Sub", [tensor, wide], [off]),
        helper.make_node("Mul", [off, off], [square]),
        helper.make_node("ReduceMean", [square, f"{_PREFIX}.plane"], [spread], keepdims=1),
        helper.make_node("Reshape", [wide, f"{_PREFIX}.row"], [mean]),
        helper.make_node("Reshape", [spread, f"{_PREFIX}.row"], [variance]),
    ]


class Pool:
    """The mean and variance of all parts of a picture from those of each, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._mean: Array = np.zeros(1)
        self._squares: Array = np.zeros(1)

    def add(self, count: int, mean: Array, variance: Array) -> None:
        """Take in a part of `count` values a channel (Chan et al., "Updating Formulae", 1979)."""
        total = self._count + count
        off = mean.astype(np.float64) - self._mean
        self._squares = (
            self._squares + variance.astype(np.float64) * count + off**2 * self._count * count / total
        )
        self._mean = self._mean + off * count / total
        self._count = total

    @property
    def statistics(self) -> Array:
        """float64[2, C]: the means, and the variances."""
        return np.stack([self._mean, self._squares / self._count])


def _given(node: onnx.NodeProto, index: int) -> list[onnx.NodeProto]:
    """The nodes in place of one instance normalisation: x * gain + shift, both [N, C, 1, 1]."""
    tensor, scale, bias = node.input
    epsilon = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)

    def name(part: str) -> str:
        return _name(index, part)

    return [
        helper.make_node("Split", [name("both")], [name("m"), name("v")], axis=1, num_outputs=2),
        helper.make_node("Reshape", [name("m"), f"{_PREFIX}.column"], [name("m4")]),
        helper.make_node("Reshape", [name("v"), f"{_PREFIX}.column"], [name("v4")]),
        helper.make_node("Constant", [], [name("epsilon")], value_float=epsilon),
        helper.make_node("Add", [name("v4"), name("epsilon")], [name("ve")]),
        helper.make_node("Sqrt", [name("ve")], [name("deviation")]),
        helper.make_node("Reshape", [scale, f"{_PREFIX}.weights"], [name("scale")]),
        helper.make_node("Reshape", [bias, f"{_PREFIX}.weights"], [name("bias")]),
        helper.make_node("Div", [name("scale"), name("deviation")], [name("gain")]),
        helper.make_node("Mul", [name("m4"), name("gain")], [name("lost")]),
        helper.make_node("Sub", [name("bias"), name("lost")], [name("shift")]),
        helper.make_node("Mul", [tensor, name("gain")], [name("scaled")]),
        helper.make_node("Add", [name("scaled"), name("shift")], [node.output[0]], name=node.name),
    ]


def _add_constants(graph: onnx.GraphProto, channels: list[int]) -> None:
    constants = {
        "sizes": channels, "plane": [2, 3], "row": [0, 1, -1], "column": [0, -1, 1, 1], "weights": [1, -1, 1, 1],
    }  # fmt: skip
    for name, values in constants.items():
        graph.initializer.append(numpy_helper.from_array(np.array(values, np.int64), f"{_PREFIX}.{name}"))


def _name(index: int, part: str) -> str:
    return f"{_PREFIX}.{index}.{part}"

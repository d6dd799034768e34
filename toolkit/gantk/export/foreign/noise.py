# SPDX-License-Identifier: Apache-2.0
"""Noise that a network from elsewhere draws in each run: drawn once, or left out, so that it can be compared with.

Generators add it to their features for the details that no latent decides (Karras, Laine and Aila, arXiv 1812.04948,
section 2). As long as it is drawn anew, no two runs agree, and nothing that is made of the file can be held against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export.engines.probe import cpu_backends
from gantk.export.foreign.graphs import inlined
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array

NOISES = ("constant", "zero")
"""Drawn once, or left out."""

_NORMAL = ("RandomNormal", "RandomNormalLike")
_UNIFORM = ("RandomUniform", "RandomUniformLike")
_EXPOSED = "gantk.noise."

Shape = tuple[int, ...]


def draws_noise(model: Model) -> bool:
    """Whether a file has operators whose results are others in each run, and which `settled` replaces."""
    network = ir.from_proto(inlined(onnx.load_from_string(model.data)))
    nodes = _drawn(network)
    return bool(nodes) and all(node.graph is network.graph for node in nodes)


def settled(model: Model, noise: str, sizes: Mapping[str, int]) -> Model:
    """A file with its noise in place of what draws it, the same for every picture of a batch.

    Args:
        model: The file, with its weights inside.
        noise: One of `NOISES`. Constant noise is the same in every export.
        sizes: What the symbols of its inputs stand for where it is tried.

    Raises:
        UsageError: It draws no noise.
        GantkError: Noise is drawn in a branch or a loop, noise that is to be constant is as large as the inputs say,
            or the file does not run.
        BackendMissingError: No backend works here to see how much is drawn.
    """
    proto = inlined(onnx.load_from_string(model.data))
    network = ir.from_proto(proto)
    nodes = _drawn(network)
    for node in nodes:
        if node.graph is not network.graph:
            raise GantkError(
                f"node `{node.name}` ({node.op_type}) draws noise in a branch or a loop, which gantk leaves as it is",
                where=f"{model.where}, {node.name}",
                hint="leave --noise and --precision out: engines compute in the types of the file",
            )
    if not nodes:
        raise UsageError(
            f"`{model.where}` draws no noise: it yields the same in every run",
            where="--noise",
            hint="leave --noise out",
        )
    backend = next(cpu_backends(model), None)
    if backend is None:
        raise BackendMissingError(
            "no backend works here to see how much noise a network draws", hint="pip install 'gantk[cpu]'"
        )
    batches = {spec.shape[0] for spec in model.inputs if spec.shape}
    # One picture more, each twice as large.
    larger = {symbol: size + 1 if symbol in batches else 2 * size for symbol, size in sizes.items()}
    counts = [(sizes[symbol], larger[symbol]) for symbol in sizes if symbol in batches]
    exposed = from_bytes(_with_sizes(proto), model.path)
    runs = [_run(exposed, backend, each) for each in (sizes, larger)]
    shapes = [
        _shape(model, node, noise, [made.get(f"{_EXPOSED}{index}") for made in runs], counts)
        for index, node in enumerate(nodes)
    ]
    wanted = [{spec.name: made[spec.name].shape for spec in model.outputs} for made in runs]
    for expands in (False, True):
        made = replace(
            from_bytes(_with_noise(proto, shapes, noise, expands=expands), model.path),
            config={**model.config, "noise": noise},
        )
        try:
            outputs = [_run(made, backend, each) for each in (sizes, larger)]
        except GantkError:
            if expands:
                raise
            continue  # What was a batch of noise is joined with others.
        if [{name: array.shape for name, array in each.items()} for each in outputs] == wanted:
            return made
    raise GantkError(f"`{model.where}` is another network with its noise in place", where=model.where)


def _drawn(model: ir.Model) -> list[ir.Node]:
    """The nodes that draw noise, in their order, those in branches and loops too."""
    return [
        node
        for node in ir.traversal.RecursiveGraphIterator(model.graph)
        if node.domain in ("", "ai.onnx") and node.op_type in (*_NORMAL, *_UNIFORM)
    ]


def _run(model: Model, backend: str, sizes: Mapping[str, int]) -> dict[str, Array]:
    with open_model(model, backend, device="cpu") as runner:
        return runner.run(random_feeds(model.inputs, sizes, 0))


def _with_sizes(proto: onnx.ModelProto) -> bytes:
    """The file with the shape of what is drawn among its outputs, where another tensor decides it."""
    model = ir.from_proto(proto)
    for index, node in enumerate(_drawn(model)):
        if not node.inputs:
            continue
        asks = ir.Node("", "Shape", [node.inputs[0]])
        (size,) = asks.outputs
        size.name, size.type = f"{_EXPOSED}{index}", ir.TensorType(ir.DataType.INT64)
        size.shape = ir.Shape([None])
        model.graph.append(asks)
        model.graph.outputs.append(size)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _shape(
    model: Model,
    node: ir.Node,
    noise: str,
    measured: Sequence[Array | None],
    counts: Sequence[tuple[int, int]],
) -> Shape:
    """Of the noise that takes a node's place: one picture's, where there are as many as the batch has.

    Args:
        measured: The shape of what it drew, with inputs as usual and with larger ones; `None` where the node says it.
        counts: Of the pictures of a batch, in the same two runs.
    """
    usual, large = measured
    if usual is None or large is None:
        return tuple(node.attributes["shape"].as_ints())
    if noise == "zero":
        return (1,) * len(usual)
    grown = [axis for axis in range(len(usual)) if usual[axis] != large[axis]]
    if grown and (grown != [0] or (int(usual[0]), int(large[0])) not in counts):
        raise GantkError(
            f"the noise of node `{node.name}` ({node.op_type}) is as large as the inputs say, "
            f"{'x'.join(map(str, usual))} and {'x'.join(map(str, large))}, and no constant is",
            where=f"{model.where}, {node.name}",
            hint="--noise zero leaves it out, or export the network for one size",
        )
    return tuple(1 if axis in grown else int(size) for axis, size in enumerate(usual))


def _with_noise(proto: onnx.ModelProto, shapes: Sequence[Shape], noise: str, *, expands: bool) -> bytes:
    """The file with noise as weights; `expands`: as many times as a batch has pictures."""
    model = ir.from_proto(proto)
    graph = model.graph
    for index, (node, shape) in enumerate(zip(_drawn(model), shapes, strict=True)):
        (drawn,) = node.outputs
        array = np.zeros(shape) if noise == "zero" else _draw(node, shape, index)
        weights = ir.Value(name=f"{drawn.name}/noise")
        weights.const_value = ir.tensor(array.astype(_dtype(node).numpy()), name=weights.name)
        weights.type, weights.shape = ir.TensorType(weights.const_value.dtype), ir.Shape(shape)
        graph.register_initializer(weights)
        if expands and node.inputs:
            size = ir.Node("", "Shape", [node.inputs[0]])
            repeated = ir.Node("", "Expand", [weights, size.outputs[0]])
            graph.insert_before(node, [size, repeated])
            weights = repeated.outputs[0]
        if drawn.is_graph_output():
            same = ir.Node("", "Identity", [weights])
            graph.insert_before(node, same)
            weights = same.outputs[0]
            weights.name, weights.type, weights.shape = drawn.name, drawn.type, drawn.shape
        ir.convenience.replace_all_uses_with(drawn, weights, replace_graph_outputs=True)
        graph.remove(node, safe=True)
    RemoveUnusedNodesPass()(model)
    data: bytes = ir.to_proto(model).SerializeToString()
    return data


def _dtype(node: ir.Node) -> ir.DataType:
    """Of what a node draws: by default float32, or that of the tensor which it is shaped like."""
    if "dtype" in node.attributes:
        return ir.DataType(node.attributes["dtype"].as_int())
    like = node.inputs[0].dtype if node.inputs and node.inputs[0] is not None else None
    return like or ir.DataType.FLOAT


def _draw(node: ir.Node, shape: Shape, index: int) -> Array:
    rng = np.random.default_rng((0, index))

    def number(name: str, default: float) -> float:
        return node.attributes[name].as_float() if name in node.attributes else default

    made: Any
    if node.op_type in _NORMAL:
        made = number("mean", 0.0) + number("scale", 1.0) * rng.standard_normal(shape)
    else:
        made = rng.uniform(number("low", 0.0), number("high", 1.0), shape)
    return np.asarray(made)

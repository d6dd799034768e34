# SPDX-License-Identifier: Apache-2.0
"""Exact rewrites of float32 graphs: the same function from other operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

SIMD_FLOATS = 16
"""The float32 values of a 512-bit register."""

_TAPS = {
    0: [3, 1],
    1: [2, 0],
}  # Of a phase: the taps of a kernel of 4 that meet its two inputs, in their order.
_ACTIVATIONS = ("Relu", "Tanh", "Sigmoid")


def transposed_to_subpixel(graph: ir.Model) -> int:
    """Turn transposed convolutions of kernel 4, stride 2, padding 1 into four 2x2 ones and a depth-to-space.

    Output row 2i + a sums input rows i - 1 and i (a = 0) or i and i + 1 (a = 1), and columns alike, so each
    of the four phases of the output is a 2x2 convolution of the input (Shi et al., arXiv 1609.05158, section
    2.2). An activation that follows moves before the depth-to-space, where convolutions absorb it. Layers
    with few output channels are left to `narrow_transposed_to_subpixel`.

    Returns:
        The number of convolutions turned.
    """
    return _turn_all(graph, narrow=False)


def narrow_transposed_to_subpixel(graph: ir.Model) -> int:
    """The same for layers with few output channels, as the last one of a generator: one 3x3 convolution.

    Its four phases, with zero taps, fill one SIMD register, which four convolutions would leave mostly empty.

    Returns:
        The number of convolutions turned.
    """
    return _turn_all(graph, narrow=True)


REWRITES: dict[str, Callable[[ir.Model], int]] = {
    "narrow-transposed-to-subpixel": narrow_transposed_to_subpixel,
    "transposed-to-subpixel": transposed_to_subpixel,
}
"""What may make a graph faster, in the order of trial; kept only where measured to: `gantk.export.variants`."""


def rewrite(graph: ir.Model, names: Sequence[str]) -> ir.Model | None:
    """A copy of a graph with some of `REWRITES` applied, or `None` where one of them finds nothing to do."""
    copy = ir.from_proto(ir.to_proto(graph))
    return copy if all(REWRITES[name](copy) for name in names) else None


def _turn_all(graph: ir.Model, *, narrow: bool) -> int:
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        weight = _constant(node.inputs[1])
        if weight is not None and _doubles(node, weight) and narrow == (4 * weight.shape[1] <= SIMD_FLOATS):
            _turn(graph.graph, node, weight, joint=narrow)
            turned += 1
    _drop_unused_weights(graph.graph)
    return turned


def _doubles(node: ir.Node, weight: Float64) -> bool:
    """Whether a transposed convolution doubles height and width in the way that the rewrite expects."""
    return (
        weight.shape[2:] == (4, 4)
        and _ints(node, "strides") == [2, 2]
        and _ints(node, "pads") == [1, 1, 1, 1]
        and _ints(node, "dilations") in ([], [1, 1])
        and _ints(node, "output_padding") in ([], [0, 0])
        and _attribute(node, "group", 1) == 1
    )


def _turn(graph: ir.Graph, node: ir.Node, weight: Float64, *, joint: bool) -> None:
    """Put the phases of a transposed convolution in its place."""
    bias = _constant(node.inputs[2]) if len(node.inputs) > 2 else None
    activation = _activation_after(node)
    added: list[ir.Node] = []

    def add(
        op_type: str, inputs: list[ir.Value | None], name: str, **attributes: int | str | list[int]
    ) -> ir.Value:
        added.append(ir.node(op_type, inputs, attributes, name=f"{node.name}/{name}"))
        added[-1].outputs[0].name = f"{node.name}/{name}.output"
        return added[-1].outputs[0]

    def convolve(name: str, kernel: Float64, offset: Float64 | None, pads: list[int]) -> ir.Value:
        parts = {"weight": kernel, "bias": offset}
        weights = [
            _weight(graph, f"{node.name}/{name}.{part}", a) for part, a in parts.items() if a is not None
        ]
        value = add("Conv", [node.inputs[0], *weights], name, kernel_shape=list(kernel.shape[2:]), pads=pads)
        return (
            value if activation is None else add(activation.op_type, [value], f"{name}/{activation.op_type}")
        )

    if joint:
        phases = convolve(
            "phases", _joint_phases(weight), None if bias is None else np.tile(bias, 4), [1, 1, 1, 1]
        )
    else:
        parts = [
            convolve(f"phase{a}{b}", _phase(weight, a, b), bias, [1 - a, 1 - b, a, b])
            for a in (0, 1)
            for b in (0, 1)
        ]
        phases = add("Concat", [*parts], "phases", axis=1)
    spread = add("DepthToSpace", [phases], "DepthToSpace", blocksize=2, mode="DCR")
    graph.insert_before(node, added)
    replaced = node if activation is None else activation
    spread.name, spread.type, spread.shape = (
        getattr(replaced.outputs[0], f) for f in ("name", "type", "shape")
    )
    replaced.outputs[0].replace_all_uses_with(spread, replace_graph_outputs=True)
    graph.remove([replaced, node] if activation is not None else node, safe=True)


def _phase(weight: Float64, a: int, b: int) -> Float64:
    """Of weights (C_in, C_out, 4, 4), the kernel (C_out, C_in, 2, 2) of output rows 2i + a and columns 2j + b."""
    rows, columns = _TAPS[a], _TAPS[b]
    return weight[:, :, rows][:, :, :, columns].transpose(1, 0, 2, 3)


def _joint_phases(weight: Float64) -> Float64:
    """All four phases as one kernel (4 C_out, C_in, 3, 3), phase by phase."""
    inputs, outputs = weight.shape[:2]
    joint = np.zeros((2, 2, outputs, inputs, 3, 3))
    for a in (0, 1):
        for b in (0, 1):
            joint[a, b, :, :, a : a + 2, b : b + 2] = _phase(weight, a, b)
    return joint.reshape(4 * outputs, inputs, 3, 3)


def _activation_after(node: ir.Node) -> ir.Node | None:
    """The activation that alone uses a node's output."""
    users = [user for user, _ in node.outputs[0].uses()]
    if len(users) == 1 and users[0].op_type in _ACTIVATIONS and not node.outputs[0].is_graph_output():
        return users[0]
    return None


def _constant(value: ir.Value | None) -> Float64 | None:
    if value is None or value.const_value is None:
        return None
    array: Float64 = value.const_value.numpy().astype(np.float64)
    return array


def _weight(graph: ir.Graph, name: str, array: Float64) -> ir.Value:
    tensor = ir.Tensor(array.astype(np.float32), name=name)
    value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(ir.DataType.FLOAT), const_value=tensor)
    graph.register_initializer(value)
    return value


def _attribute(node: ir.Node, name: str, default: int) -> int:
    return node.attributes[name].as_int() if name in node.attributes else default


def _ints(node: ir.Node, name: str) -> list[int]:
    return list(node.attributes[name].as_ints()) if name in node.attributes else []


def _drop_unused_weights(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses():
            del graph.initializers[name]

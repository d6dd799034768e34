# SPDX-License-Identifier: Apache-2.0
"""Convolutions as gantk's own functions, for which its native operators have kernels."""

from __future__ import annotations

import onnx_ir as ir

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.rewrites.graphs import Replacement, constant, optional
from gantk.export.rewrites.transposed import activation_after, doubles, is_narrow


def transposed_to_native(graph: ir.Model) -> int:
    """Turn transposed convolutions of kernel 4, stride 2, padding 1 into `gantk::TransposedConvolution4x4`.

    With the ReLU that alone follows one, if any. Layers with few output channels, for which there is little to sum,
    stay as they are.

    Returns:
        The number of convolutions turned.
    """
    used = set()
    turned = 0
    for node in [node for node in graph.graph if node.op_type == "ConvTranspose"]:
        weight = constant(node.inputs[1])
        if weight is None or not doubles(node, weight) or is_narrow(weight):
            continue
        activation = activation_after(node)
        relu = activation is not None and activation.op_type == "Relu"
        function = "TransposedConvolution4x4" + ("Relu" if relu else "")
        new = Replacement(graph.graph, node)
        inputs = [node.inputs[0], node.inputs[1], optional(node, 2)]
        made = new.call(DOMAIN, function, inputs[: len(node.inputs)])
        new.finish(made, (node, activation) if relu and activation is not None else (node,))
        used.add(function)
        turned += 1
    _add_bodies(graph, used)
    return turned


def _add_bodies(graph: ir.Model, used: set[str]) -> None:
    if not used:
        return
    graph.graph.opset_imports[DOMAIN] = VERSION
    for body in bodies(graph.graph.opset_imports[""]):
        if body.name in used:
            function = ir.from_proto(body)
            graph.functions[function.identifier()] = function

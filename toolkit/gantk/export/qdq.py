# SPDX-License-Identifier: Apache-2.0
"""The pairs of QuantizeLinear and DequantizeLinear in a graph that ONNX Runtime has quantised."""

from __future__ import annotations

import onnx

LAYERS = ("Conv", "ConvTranspose")
"""What is quantised."""

MOVERS = frozenset({"Expand", "Flatten", "MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators that yield some of the values they are given: ONNX Runtime moves pairs across them."""


def bypass_outputs(graph: onnx.GraphProto, readers: frozenset[str] | None = None) -> None:
    """Take out pairs that no quantised layer reads: what they round is computed with in floats anyway.

    Args:
        graph: Is changed.
        readers: Take out only pairs that one of these operators reads.
    """
    makers = {output: node for node in graph.node for output in node.output}
    read_by: dict[str, set[str]] = {}
    layers: set[str] = set()
    for node in graph.node:
        for name in node.input:
            read_by.setdefault(name, set()).add(node.op_type)
        if node.op_type in LAYERS and all(_dequantised(makers, name) for name in node.input[:2]):
            layers.update(node.input[:2])
    outputs = {output.name for output in graph.output}
    sources: dict[str, str] = {}
    for node in graph.node:
        made = node.output[0]
        if node.op_type != "DequantizeLinear" or made in layers:
            continue
        if readers is not None and not readers & read_by.get(made, set()):
            continue
        quantise = makers.get(node.input[0])
        if quantise is not None and quantise.op_type == "QuantizeLinear":
            sources[made] = quantise.input[0]
    # An output of the graph keeps its name: what it was made of takes that over.
    named = {source: made for made, source in sources.items() if made in outputs}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.output[0] in sources:
            node.output[0] = ""  # Nobody reads it: it goes below.
        for index, name in enumerate(node.output):
            node.output[index] = named.get(name, name)
        for index, name in enumerate(node.input):
            source = sources.get(name, name)
            node.input[index] = named.get(source, source)
    _drop_unread(graph, outputs)


def _dequantised(makers: dict[str, onnx.NodeProto], name: str) -> bool:
    return name in makers and makers[name].op_type == "DequantizeLinear"


def _drop_unread(graph: onnx.GraphProto, outputs: set[str]) -> None:
    """Take out quantisations, and then constants, that nothing reads."""
    for operator in ("DequantizeLinear", "QuantizeLinear"):
        read = {name for node in graph.node for name in node.input if name} | outputs
        for node in [n for n in graph.node if n.op_type == operator and n.output[0] not in read]:
            graph.node.remove(node)
    read = {name for node in graph.node for name in node.input} | outputs
    for tensor in [t for t in graph.initializer if t.name not in read]:
        graph.initializer.remove(tensor)

# SPDX-License-Identifier: Apache-2.0
"""A float32 ONNX file from elsewhere as a graph that `gantk.export.precision.convert` can lower."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import onnx.defs
import onnx.inliner
import onnx.version_converter
import onnx_ir as ir

from gantk.errors import GantkError
from gantk.export.foreign.simplify import simplify
from gantk.export.functions import DOMAIN
from gantk.export.opset import BF16_OPSET, OPSET
from gantk.export.precision import DTYPES, FLOAT32_INPUTS, FOLLOWERS, IN_FLOAT
from gantk.runtime.model import Model

OPSETS = {"fp32": OPSET, "fp16": 13, "bf16": BF16_OPSET, "int8": OPSET, "fp8": OPSET}
"""The version of the default domain that a file has at least: the first in which its operators have the type."""

_TYPES = {"fp16": "tensor(float16)", "bf16": "tensor(bfloat16)"}
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul", "GridSample"})
"""What takes its time, and so is lowered whatever is made of its results."""

_SIZES = (ir.DataType.INT32, ir.DataType.INT64)


def simplified(model: Model, precision: str, least: int = 0) -> ir.Model:
    """The graph of a file, simplified, with the type of every tensor; nodes have names.

    Constants are computed, and batch normalisations folded into convolutions, where fp16 would round their variances.

    Args:
        model: The file, with its weights inside.
        precision: That it is to be brought to.
        least: The version of the default domain that the graph has at least, if not that of `OPSETS`.

    Raises:
        GantkError: It has branches, loops or operators of others, or its types cannot be told.
        BackendMissingError: What simplifies it is not installed.
    """
    least = max(least, OPSETS[precision])
    proto = _at_opset(inlined(onnx.load_from_string(model.data)), least, model.where)
    graph = _typed(simplify(proto, model.where), model)
    _name(graph.graph)
    for node in graph.graph:
        _refuse(node, model.where)
    return graph


def lowerable(model: Model, precision: str, least: int = 0) -> ir.Model:
    """The same for `gantk.export.precision.convert`: what has float32 alone is marked `IN_FLOAT`.

    So is all that is computed from the sizes of tensors, for 2049 rows are not 2048, and where pictures are sampled:
    bf16 has no more than 256 places from the middle to the edge.
    """
    graph = simplified(model, precision, least)
    if precision == "fp32":
        return graph
    opset = graph.opset_imports[""]
    for node in graph.graph:
        if not _lowers(node, opset, precision):
            node.metadata_props[IN_FLOAT] = "true"
    for node in (*_of_sizes(graph.graph), *_of_places(graph.graph)):
        node.metadata_props[IN_FLOAT] = "true"
    return graph


def halved(graph: ir.Graph) -> set[str]:
    """The names of the nodes of a lowered graph whose results are kept in fp16, or read so."""
    names: set[str] = set()
    for node in graph:
        if any(value.dtype == DTYPES["fp16"] for value in node.outputs):
            before = (
                node.inputs[0].producer() if node.op_type == "Cast" and node.inputs[0] is not None else None
            )
            names.update(str(one.name) for one in (node, before) if one is not None)
    return names


def inlined(proto: onnx.ModelProto) -> onnx.ModelProto:
    """With the bodies of local functions in place of the nodes that call them, but for gantk's own."""
    own = [(function.domain, function.name) for function in proto.functions if function.domain == DOMAIN]
    if len(own) == len(proto.functions):
        return proto
    return onnx.inliner.inline_selected_functions(proto, own, exclude=True)


def _at_opset(proto: onnx.ModelProto, least: int, where: str) -> onnx.ModelProto:
    version = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
    if version >= least:
        return proto
    try:
        return onnx.version_converter.convert_version(proto, least)
    except Exception as error:  # ConvertError, or a RuntimeError of its C++.
        raise GantkError(
            f"`{where}` is of opset {version}, and cannot be brought to {least}: {str(error).strip().splitlines()[0]}",
            where=where,
            hint=f"export it again with opset_version={least} or later",
        ) from error


def _typed(graph: ir.Model, model: Model) -> ir.Model:
    """With the type of every tensor.

    Raises:
        GantkError: One cannot be told.
    """
    try:
        proto = onnx.shape_inference.infer_shapes(
            ir.to_proto(graph), check_type=True, strict_mode=True, data_prop=True
        )
    except onnx.shape_inference.InferenceError as error:
        raise GantkError(
            f"the types of the tensors of `{model.where}` cannot be told: {str(error).strip().splitlines()[0]}",
            where=model.where,
            hint="leave --precision out: engines compute in the types of the file",
        ) from error
    return ir.from_proto(proto)


def _name(graph: ir.Graph) -> None:
    """Give nodes without a name one: refusals are by name."""
    for index, node in enumerate(graph):
        node.name = node.name or f"{node.op_type}.{index}"


def _refuse(node: ir.Node, where: str) -> None:
    """Refuse what is not lowered, before something is."""
    kinds = {attribute.type for attribute in node.attributes.values()}
    if kinds & {ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS}:
        reason = "has graphs inside, which gantk does not bring to another precision"
    elif node.domain not in ("", "ai.onnx", DOMAIN):
        reason = f"is an operator of {node.domain}, whose types are not known"
    else:
        return
    raise GantkError(
        f"node `{node.name}` ({node.op_type}) of `{where}` {reason}",
        where=f"{where}, {node.name}",
        hint="leave --precision out: engines compute in the types of the file",
    )


def _lowers(node: ir.Node, opset: int, precision: str) -> bool:
    """Whether a node with lower inputs computes in their type, and yields it."""
    if node.domain == DOMAIN:
        return True
    if node.op_type == "Cast":
        return True  # Those of sizes are told apart elsewhere.
    schema = onnx.defs.get_schema(node.op_type, opset)
    allowed = {one.type_param_str: one.allowed_type_strs for one in schema.type_constraints}
    followed = set()
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != ir.DataType.FLOAT or index in FLOAT32_INPUTS.get(node.op_type, ()):
            continue
        kind = schema.inputs[min(index, len(schema.inputs) - 1)].type_str
        if _TYPES[precision] not in allowed.get(kind, ()):
            return False
        followed.add(kind)
    yielded = (
        schema.outputs[min(index, len(schema.outputs) - 1)].type_str
        for index, value in enumerate(node.outputs)
        if value.dtype == ir.DataType.FLOAT
    )
    return all(kind in followed for kind in yielded)


def _of_sizes(graph: ir.Graph) -> Iterator[ir.Node]:
    """The nodes that compute floats from integers, or something with these."""
    sizes: set[ir.Value] = set()
    for node in graph:
        given = [value for value in node.inputs if value is not None]
        if node.op_type == "Cast" and given[0].dtype in _SIZES:
            sizes.update(node.outputs)
        elif not sizes.intersection(given) or node.op_type in _LAYERS:
            continue
        elif all(value in sizes or value.const_value is not None for value in given):
            sizes.update(node.outputs)
        elif node.op_type not in FOLLOWERS:
            continue
        yield node


def _of_places(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that sample pictures, which TensorRT has of one type alone, and those that say where."""
    found = {node for node in graph if node.op_type == "GridSample"}
    left = [node.inputs[1] for node in found]
    while left:
        value = left.pop()
        node = None if value is None else value.producer()
        if node is not None and node not in found and node.op_type not in _LAYERS:
            found.add(node)
            left += node.inputs
    return found

# SPDX-License-Identifier: Apache-2.0
"""Precision lives in the types of the graph: a float32 graph becomes a fp16 or bf16 one with float32 borders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from gantk.errors import GantkError
from gantk.export.opset import BF16_OPSET
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array

DTYPES = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}

FP32_ISLANDS = frozenset(
    {
        "InstanceNormalization",
        "LayerNormalization",
        "GroupNormalization",
        "MeanVarianceNormalization",
        "ReduceMean",
        "ReduceSum",
        "ReduceSumSquare",
        "ReduceL2",
        "GlobalAveragePool",
        "Softmax",
    }
)
"""Operators that sum many terms: they stay in float32, between casts."""

IN_HALF = "gantk.in_half"
"""The key of a node's metadata by which fp16 files have it in fp16 all the same, for a backend whose own sums are
float32: see `gantk.export.rewrites.normalized`."""

IN_FLOAT = "gantk.in_float"
"""The key of a node's metadata by which it stays in float32, for a backend that has it in nothing less: see
`gantk.export.rewrites.wholly_native`."""

FOLLOWERS = frozenset(
    {"Relu", "LeakyRelu", "Clip", "Tanh", "Sigmoid", "Sqrt", "Reciprocal", "Add", "Sub", "Mul", "Div"}
)
"""Operators that stay in float32 after an island, as backends compute them in one go with it, unless there is a
cast between; they may take whole tensors from islands alone, besides one value for each channel."""

FP16_LIMIT = 2.0**15
"""Half of what fp16 can hold: values beyond it leave no room for pictures that were not tried."""

FLOAT32_INPUTS = {
    "Resize": (1, 2),
    "BiasRelu": (1,),
    "ToPicture": (1, 3),
    "NhwcAffine": (1, 2),
    "NhwcAffineSum": (1, 2),
    "NhwcAffinePRelu": (1, 2, 3),
    "NhwcAffineSumPRelu": (1, 2, 4),
    **dict.fromkeys(("NhwcAffineSilu", "NhwcAffineSumSilu"), (1, 2)),
    **dict.fromkeys(("NhwcGroupNorm", "NhwcGroupNormSilu", "NhwcLayerNorm", "NhwcRmsNorm"), (1, 2)),
    **dict.fromkeys(("InstanceNorm", "InstanceNormRelu", "InstanceNormSum"), (3, 4)),
}
"""Sizes, scales, offsets and slopes whose type the operator fixes."""


def convert(graph: ir.Model, precision: str) -> ir.Model:
    """A copy of a float32 graph that computes in another precision; its inputs and outputs keep their types.

    Args:
        graph: With float32 weights.
        precision: ``fp32`` (a plain copy), ``fp16`` or ``bf16``.

    Raises:
        GantkError: A weight does not fit into the precision.
    """
    copy = ir.from_proto(ir.to_proto(graph))
    if precision == "fp32":
        return copy
    dtype = DTYPES[precision]
    islands = _islands(copy.graph, precision)
    for node in list(copy.graph):
        if node not in islands:
            _lower(copy.graph, node, dtype)
    _join_types(copy.graph, islands, dtype)
    if precision == "bf16":
        for part in (copy.graph, *copy.functions.values()):
            part.opset_imports[""] = BF16_OPSET
    return copy


def audit_range(data: bytes, feeds: Sequence[Mapping[str, Array]], backend: str) -> dict[str, float]:
    """The largest magnitude that each tensor of a float32 graph reaches.

    Args:
        data: The graph's ONNX file.
        feeds: Inputs to try.
        backend: The backend to run it with, every intermediate tensor an output.

    Returns:
        For each layer that yields a float tensor, by name, its largest absolute value; NaN where one was.
    """
    graph = ir.from_proto(onnx.load_from_string(data))
    exposed = expose_intermediates(graph)
    peaks = {layer: 0.0 for _, layer in exposed.values()}
    with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), backend) as runner:
        for feed in feeds:
            outputs = runner.run(feed)
            for name, (_, layer) in exposed.items():
                peaks[layer] = float(np.maximum(peaks[layer], np.abs(outputs[name]).max()))
    return peaks


def refuse_overflow(peaks: Mapping[str, float]) -> None:
    """Refuse a network whose tensors do not fit into fp16.

    Args:
        peaks: From `audit_range`.

    Raises:
        GantkError: A layer passes `FP16_LIMIT`; the first one is named.
    """
    for layer, peak in peaks.items():
        if not peak <= FP16_LIMIT:
            raise GantkError(
                f"layer `{layer}` reaches {peak:.4g} in float32; fp16 is safe to {FP16_LIMIT:g} "
                "(it ends at 65504), so pictures would turn black or NaN",
                where=f"fp16, layer {layer}",
                hint="export with --precision fp32,bf16: bf16 has float32's range",
            )


def expose_intermediates(graph: ir.Model) -> dict[str, tuple[str, str]]:
    """Make every float tensor that a node yields an output of the graph, as float32.

    Returns:
        By the name of the added or standing output: the name of the tensor and of the layer that yields it.
    """
    exposed: dict[str, tuple[str, str]] = {}
    outputs = set(graph.graph.outputs)
    for node in list(graph.graph):
        for value in node.outputs:
            if value.dtype is None or not value.dtype.is_floating_point() or value.name is None:
                continue
            shown = value if value.dtype == ir.DataType.FLOAT else _in_float(graph.graph, value)
            if shown not in outputs:
                graph.graph.outputs.append(shown)
                outputs.add(shown)
            exposed.setdefault(str(shown.name), (value.name, node.name or node.op_type))
    return exposed


def _islands(graph: ir.Graph, precision: str) -> set[ir.Node]:
    """The nodes that stay in float32."""
    islands: set[ir.Node] = set()
    for node in graph:
        in_half = precision == "fp16" and IN_HALF in node.metadata_props
        in_float = IN_FLOAT in node.metadata_props or (node.op_type in FP32_ISLANDS and not in_half)
        if in_float or (
            node.op_type in FOLLOWERS
            and any(value and value.producer() in islands for value in node.inputs)
            and all(value is None or value.producer() in islands or _is_small(value) for value in node.inputs)
        ):
            islands.add(node)
    return islands


def _is_small(value: ir.Value) -> bool:
    """Whether a tensor is a constant, or has no height and width to speak of."""
    if value.const_value is not None:
        return True
    return value.shape is not None and len(value.shape) == 4 and list(value.shape[2:]) == [1, 1]


def _lower(graph: ir.Graph, node: ir.Node, dtype: ir.DataType) -> None:
    """Give a node's weights and outputs the lower type."""
    fixed = FLOAT32_INPUTS.get(node.op_type, ())
    for index, value in enumerate(node.inputs):
        if (
            value is not None
            and index not in fixed
            and value.const_value is not None
            and value.dtype == ir.DataType.FLOAT
        ):
            node.replace_input_with(index, _lowered_weight(graph, value, dtype, node))
    for attribute in node.attributes.values():
        if attribute.name == "to" and attribute.as_int() == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", dtype)
    for output in node.outputs:
        if output.dtype == ir.DataType.FLOAT:
            output.dtype = dtype


def _lowered_weight(graph: ir.Graph, value: ir.Value, dtype: ir.DataType, node: ir.Node) -> ir.Value:
    assert value.const_value is not None and value.name is not None
    name = f"{value.name}.{'fp16' if dtype == ir.DataType.FLOAT16 else 'bf16'}"
    if name in graph.initializers:
        return graph.initializers[name]
    weights = value.const_value.numpy()
    with np.errstate(over="ignore"):
        lowered = weights.astype(dtype.numpy())
    if not np.isfinite(lowered.astype(np.float32)).all():
        raise GantkError(
            f"a weight of layer `{node.name}` is {np.abs(weights).max():.4g}; "
            f"{name.rsplit('.', 1)[-1]} cannot hold it",
            where=f"{value.name}, layer {node.name}",
            hint="export with --precision fp32",
        )
    weight = ir.Value(
        name=name, shape=value.shape, type=ir.TensorType(dtype), const_value=ir.Tensor(lowered, name=name)
    )
    graph.register_initializer(weight)
    return weight


def _join_types(graph: ir.Graph, islands: set[ir.Node], dtype: ir.DataType) -> None:
    """Put casts where a tensor of one type meets a node that wants the other, and at the graph's borders."""
    casts: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}
    for node in list(graph):
        island = node in islands
        fixed = FLOAT32_INPUTS.get(node.op_type, ())
        if node.op_type == "Cast":
            continue  # A cast takes any type.
        for index, value in enumerate(node.inputs):
            wanted = ir.DataType.FLOAT if island or index in fixed else dtype
            if value is None or value.dtype not in (ir.DataType.FLOAT, dtype) or value.dtype == wanted:
                continue
            if (value, wanted) not in casts:
                cast = _cast(value, wanted)
                graph.insert_before(node, cast)  # This is its first user, in graph order.
                casts[value, wanted] = cast.outputs[0]
            node.replace_input_with(index, casts[value, wanted])
    for index, output in enumerate(list(graph.outputs)):
        if output.dtype == dtype:
            _cast_output(graph, index, output)
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]


def _cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    node = ir.node("Cast", [value], {"to": int(dtype)}, name=f"{value.name}/Cast.{dtype.name.lower()}")
    output = node.outputs[0]
    output.name, output.shape, output.type = (
        f"{value.name}.{dtype.name.lower()}",
        value.shape,
        ir.TensorType(dtype),
    )
    return node


def _cast_output(graph: ir.Graph, index: int, output: ir.Value) -> None:
    """Cast a graph output back to float32; the cast takes over its name."""
    assert output.name is not None and output.dtype is not None
    wide = _in_float(graph, output)
    output.name, wide.name = f"{output.name}.{output.dtype.name.lower()}", output.name
    graph.outputs[index] = wide


def _in_float(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """A tensor as float32: by the cast that an island reads it through, if there is one."""
    for user, _ in value.uses():
        if user.op_type == "Cast" and user.outputs[0].dtype == ir.DataType.FLOAT:
            return user.outputs[0]
    cast = _cast(value, ir.DataType.FLOAT)
    graph.append(cast)
    return cast.outputs[0]

# SPDX-License-Identifier: Apache-2.0
"""Puts gantk's TensorRT plugins in the place of a graph's `gantk::GramMatrix` and `gantk::TotalVariation` nodes.

TensorRT's parser takes a local function before a plugin, so that the bodies of what is replaced are taken out. A
`gantk::GramMatrixGrad`, one matrix product, keeps its body.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from gantk.errors import GantkError
from gantk.kernels.gram_plan import plan_gram
from gantk.kernels.launch import Device, Features
from gantk.kernels.parameters import VariationParameters
from gantk.kernels.tensorrt import MOST_SHARED_BYTES, NAMESPACE
from gantk.kernels.tensorrt_settings import ATTRIBUTE, GramSettings, Settings, VariationSettings
from gantk.kernels.tensorrt_source import SIMT, plugin_target
from gantk.kernels.variation_plan import Pictures, plan_variation

if TYPE_CHECKING:
    import onnx

DOMAIN = "gantk"
_DTYPES = {1: "float32", 10: "float16", 16: "bfloat16"}  # ONNX's TensorProto.DataType.
Shapes = Mapping[str, tuple[str, tuple[int, ...]]]

_PLUGIN = {"plugin_namespace": NAMESPACE, "plugin_version": "1"}
_IN_LIBRARY = {(DOMAIN, name) for name in ("GramMatrix", "GramMatrixGrad", "TotalVariation")}


def with_plugins(
    proto: onnx.ModelProto, sizes: Mapping[str, Sequence[int]], device: Device, precision: str = "exact"
) -> onnx.ModelProto:
    """The same network with plugins for Gram matrices and total variation.

    Args:
        proto: An exported network; it is left as it is.
        sizes: The shape of each input that the engine is tuned for. Kernels, tiles and slices are chosen for it; others
            are computed right, and perhaps more slowly.
        device: The GPU that the engine is for.
        precision: Of Gram matrices of float32 features: ``exact`` as float32 sums would have them, or ``tf32``.

    Raises:
        GantkError: An input's size is missing, or the shape of something is not to be found.
        UsageError: There is no such precision.
    """
    import onnx

    shapes, fixed = _shapes(_sized(proto, sizes)), _shapes(proto)
    # A plugin's kernels get no more shared memory than every kernel has.
    device = Device(device.compute_capability, device.multiprocessors, MOST_SHARED_BYTES)
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    nodes = [part for node in proto.graph.node for part in _replaced(node, shapes, fixed, device, precision)]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    used = {node.op_type for node in nodes if node.domain == DOMAIN}
    bodies = [body for body in proto.functions if body.domain != DOMAIN or body.name in used]
    del made.functions[:]
    made.functions.extend(bodies)
    return made


def for_library(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same network for an application that loads the C++ plugins of `kernels/tensorrt`.

    The nodes that have one say where their plugins are, and their bodies, which TensorRT's parser would rather take,
    are out.
    """
    import onnx
    from onnx import helper

    made = onnx.ModelProto()
    made.CopyFrom(proto)
    for node in made.graph.node:
        if (node.domain, node.op_type) in _IN_LIBRARY:
            node.attribute.extend(helper.make_attribute(name, value) for name, value in _PLUGIN.items())
    kept = [body for body in made.functions if (body.domain, body.name) not in _IN_LIBRARY]
    del made.functions[:]
    made.functions.extend(kept)
    return made


def _replaced(
    node: onnx.NodeProto, shapes: Shapes, fixed: Shapes, device: Device, precision: str
) -> list[onnx.NodeProto]:
    from onnx import helper

    if node.domain != DOMAIN or node.op_type not in ("GramMatrix", "TotalVariation"):
        return [node]
    dtype, shape = shapes.get(node.input[0], ("", ()))
    if not shape or min(shape) < 1:
        raise GantkError(
            f"the shape of {node.input[0]!r} is not to be found", where=node.name or node.op_type
        )
    given = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "GramMatrix":
        return _gram(node, given, dtype, shape, device, precision)
    has_fixed_width = fixed[node.input[0]][1][-1:] == shape[-1:]
    return _variation(node, given, dtype, shape, device, has_fixed_width=has_fixed_width)


def _gram(
    node: onnx.NodeProto,
    given: dict[str, Any],
    dtype: str,
    shape: tuple[int, ...],
    device: Device,
    precision: str,
) -> list[onnx.NodeProto]:
    batch, channels, *rest = shape
    features = Features.contiguous(dtype, batch, channels, math.prod(rest))
    layer = plan_gram([features], device, precision).layers[0]
    kernel = layer.variant.kernel.removeprefix("gantk_gram_")
    settings = GramSettings(
        target=plugin_target(device.compute_capability).name,
        math=SIMT if kernel.startswith(SIMT) else kernel.partition("_")[0],
        tile=layer.variant.tile,
        splits=layer.splits,
        groups=layer.groups,
        scale=float(given.get("scale", 0.0)),
    )
    given_features, gram = node.input[0], node.output[0]
    partial = f"{gram}/partial"
    return [
        _node("GramPartial", [given_features], [partial], f"{node.name}/partial", settings),
        _node("GramReduce", [partial, given_features], [gram], f"{node.name}/reduce", settings),
    ]


def _variation(
    node: onnx.NodeProto,
    given: dict[str, Any],
    dtype: str,
    shape: tuple[int, ...],
    device: Device,
    *,
    has_fixed_width: bool,
) -> list[onnx.NodeProto]:
    kind, epsilon = given.get("kind", b"l1").decode(), float(given.get("epsilon", 1e-8))
    batch, channels, height, width = shape
    pictures = Pictures.contiguous(dtype, batch, channels, height, width)
    plan = plan_variation(pictures, kind, epsilon, device, pictures)
    value, gradient = [*node.output, ""][:2]
    value, gradient = value or f"{node.name}/value", gradient or f"{node.name}/gradient"
    target, partials = plugin_target(device.compute_capability).name, f"{value}/partials"
    settings = VariationSettings(
        target=target,
        kind=kind,
        epsilon=epsilon,
        rows=VariationParameters.from_buffer_copy(plan.parameters).rows,
        packed=has_fixed_width and "packed" in plan.kernel,
    )
    return [
        _node("VariationPartial", [node.input[0]], [partials, gradient], f"{node.name}/partial", settings),
        _node("VariationFinish", [partials], [value], f"{node.name}/finish", Settings(target)),
    ]


def _node(
    plugin: str, inputs: list[str], outputs: list[str], name: str, settings: Settings
) -> onnx.NodeProto:
    from onnx import helper

    told = {ATTRIBUTE: settings.text(), **_PLUGIN}
    node: onnx.NodeProto = helper.make_node(plugin, inputs, outputs, name, domain=DOMAIN, **told)
    return node


def _sized(proto: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> onnx.ModelProto:
    """The same network for inputs of certain shapes."""
    import onnx

    sized = onnx.ModelProto()
    sized.CopyFrom(proto)
    stored = {tensor.name for tensor in proto.graph.initializer}
    for value in sized.graph.input:
        if value.name in stored:
            continue
        if value.name not in sizes:
            raise GantkError(
                f"the size of input {value.name!r} is missing; given are {', '.join(sizes) or 'none'}"
            )
        del value.type.tensor_type.shape.dim[:]
        for size in sizes[value.name]:
            value.type.tensor_type.shape.dim.add(dim_value=size)
    del sized.graph.value_info[:]
    for output in sized.graph.output:
        output.type.tensor_type.ClearField("shape")
    return sized


def _shapes(proto: onnx.ModelProto) -> Shapes:
    """Type and shape of every value that can be inferred; a size that is open is 0."""
    import onnx.shape_inference

    inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    values = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
    tensors = {value.name: value.type.tensor_type for value in values}
    return {
        name: (_DTYPES[tensor.elem_type], tuple(axis.dim_value for axis in tensor.shape.dim))
        for name, tensor in tensors.items()
        if tensor.elem_type in _DTYPES
    }

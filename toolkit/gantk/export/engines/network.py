# SPDX-License-Identifier: Apache-2.0
"""The network that a product's parser makes of an ONNX file, and what is refused of it before anything is built."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from gantk.errors import GantkError
from gantk.export.engines.plugins import WITHOUT
from gantk.runtime.model import from_bytes
from gantk.runtime.product_log import log
from gantk.runtime.products import tensor_dtype

# What to change where the parser refuses a node, by its operator.
_ADVICE = {
    "Resize": "do without antialias, and enlarge by nearest or linear",
    "ConvTranspose": "gantk export RUN rewrites it as a sub-pixel convolution",
    "InstanceNormalization": "give it float32 inputs, between casts",
    **dict.fromkeys(("GramPartial", "GramReduce", "VariationPartial", "VariationFinish"), WITHOUT),
}

_AS_FLOAT32 = "cast within the network, so that its inputs and outputs are float32"


def parse(trt: ModuleType, builder: Any, data: bytes, where: str) -> Any:
    """The strongly typed network of an ONNX file.

    Raises:
        GantkError: The parser refuses it: the node is named, and what to change.
    """
    # From TensorRT 11 on, networks are of no other kind, and the flag may be gone.
    typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if typed is None else 1 << int(typed))
    parser = trt.OnnxParser(network, log(trt).logger)
    if not parser.parse(data):
        raise _refusal(parser, where)
    return network


def check_tensors(trt: ModuleType, network: Any, data: bytes, where: str) -> None:
    """Refuse inputs and outputs with which an engine could be built and never be opened.

    Args:
        trt: The product's module.
        network: From `parse`.
        data: The file that it was made of.
        where: Its name in errors.

    Raises:
        GantkError: One has another type than in the file, as float64 has, or is bfloat16, which numpy does not
            have; or the values of an input decide on shapes.
    """
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    model = from_bytes(data)
    declared = {spec.name: spec.dtype for spec in (*model.inputs, *model.outputs)}
    for tensor in (*inputs, *outputs):
        dtype, here = tensor_dtype(trt, tensor.dtype), f"{where}, {tensor.name}"
        wanted = declared.get(tensor.name, dtype)
        if dtype != wanted:
            raise GantkError(
                f"{tensor.name!r} of `{where}` is {wanted}, and {dtype} in an engine",
                where=here,
                hint=_AS_FLOAT32,
            )
        if dtype == "bfloat16":
            raise GantkError(
                f"{tensor.name!r} of `{where}` is bfloat16, which numpy does not have",
                where=here,
                hint=_AS_FLOAT32,
            )
    shaping = next((tensor for tensor in inputs if tensor.is_shape_tensor), None)
    if shaping is not None:
        raise GantkError(
            f"input {shaping.name!r} of `{where}` is read as a shape, and engines are built for the shapes of inputs, "
            "not for their values",
            where=f"{where}, {shaping.name}",
            hint="make it a constant of the network, or let the shape follow from those of other inputs",
        )


def _refusal(parser: Any, where: str) -> GantkError:
    """The error of a parser that stopped, with the node at fault and what to change."""
    if parser.num_errors == 0:
        return GantkError(f"`{where}` cannot be parsed, and the parser does not say why", where=where)
    error = parser.get_error(0)
    operator = getattr(error, "node_operator", str)() or ""
    name = getattr(error, "node_name", str)() or ""
    node = f"`{name}`" if name else f"number {error.node()}"
    reason = " ".join(error.desc().split())
    if reason == "false":  # The check that there is of an operator that it does not have.
        reason = "it has no such operator"
    if not operator:
        return GantkError(f"`{where}` cannot be parsed: {reason}", where=where)
    advice = _ADVICE.get(operator, "write it in operators that TensorRT has")
    return GantkError(
        f"node {node} ({operator}) of `{where}` is refused by the parser: {reason}",
        where=f"{where}, node {name or error.node()}",
        hint=advice,
    )

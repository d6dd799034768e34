# SPDX-License-Identifier: Apache-2.0
"""What the layers of a network really compute in, as the product itself has them after parsing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gantk.bundle import HeavyLayer, as_printable
from gantk.errors import GantkError
from gantk.runtime.products import layer_type

HEAVY_KINDS = {
    "CONVOLUTION": "convolution",
    "DECONVOLUTION": "deconvolution",
    "MATRIX_MULTIPLY": "matrix-multiply",
}
"""The kinds of layers that take the time, as the products call them and as the manifest does."""

FP32_FUNCTIONS = frozenset({"GramMatrix", "GramMatrixGrad"})
"""Of gantk's ONNX functions those whose products are float32 in every precision: they sum over a whole picture."""

QUANTISED = ("int8", "fp8", "int4", "fp4")

# `[ONNX Layer: node | caller (Function) | ...]`, the innermost first. A foreign node's name may be of any characters.
_TRAIL = re.compile(
    r"\[ONNX Layer: (?P<node>.+?)(?: \| (?P<caller>.+?) \((?P<function>\w+)\)(?: \| .*)?)?\]", re.DOTALL
)

_SUBGRAPHS = frozenset({"then_branch", "else_branch", "body"})
"""What the trail has in the place of a function's name where a node lies in a branch or a loop."""


@dataclass(frozen=True)
class Audit:
    """The layers of a network.

    Args:
        layers: How many yield each type; constants are not counted.
        heavy_layers: Those that take the time, in order.
        islands: The names of those heavy layers that are float32 on purpose.
    """

    layers: dict[str, int]
    heavy_layers: tuple[HeavyLayer, ...]
    islands: frozenset[str] = frozenset()


def audit(trt: ModuleType, network: Any) -> Audit:
    """List what the layers of a strongly typed network compute in.

    Args:
        trt: The product's module.
        network: Its ``INetworkDefinition``. In a strongly typed network the builder may choose no other types.
    """
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    made_by = {tensor.name: layer for layer in layers for tensor in _outputs(layer)}
    counts = Counter(
        layer_type(trt, layer.get_output(0).dtype)
        for layer in layers
        if layer.num_outputs and layer.type != trt.LayerType.CONSTANT  # An if's condition yields nothing.
    )
    heavy, islands = [], set()
    for layer in layers:
        kind = HEAVY_KINDS.get(layer.type.name)
        if kind is not None:
            name, function = _origin(layer)
            heavy.append(HeavyLayer(name, kind, _computes_in(trt, layer, made_by)))
            if function in FP32_FUNCTIONS:
                islands.add(name)
    return Audit(dict(sorted(counts.items())), tuple(heavy), frozenset(islands))


def refuse_mismatch(found: Audit, precision: str, where: str) -> None:
    """Refuse a network whose heavy layers do not compute in the precision that was asked for.

    Args:
        found: From `audit`.
        precision: One of `gantk.bundle.PRECISIONS`. Of int8 and fp8 one layer is enough, for those that suffer are
            left in higher precision.
        where: The file, for the error.

    Raises:
        GantkError: The first layer that does not is named.
    """
    heavy = [one for one in found.heavy_layers if one.name not in found.islands]
    if precision in QUANTISED:
        if not any(one.precision == precision for one in heavy):
            held = ", ".join(sorted({one.precision for one in heavy})) or "nothing"
            raise GantkError(
                f"asked for {precision}, and no heavy layer computes in it: they compute in {held}",
                where=where,
                hint="a layer is quantised where both its inputs come from DequantizeLinear nodes",
            )
        return
    wrong = [one for one in heavy if one.precision != precision]
    if wrong:
        first = wrong[0]
        raise GantkError(
            f"asked for {precision}, and {len(wrong)} of {len(heavy)} heavy layers compute in something else: "
            f"{first.kind} `{first.name}` in {first.precision}",
            where=f"{where}, layer {first.name}",
            hint="TensorRT computes in the types of the graph; gantk export RUN makes each precision's own graph",
        )


def _outputs(layer: Any) -> Iterator[Any]:
    yield from (layer.get_output(index) for index in range(layer.num_outputs))


def _origin(layer: Any) -> tuple[str, str | None]:
    """The name of the ONNX node that a layer stands for, and of the gantk function that it came out of."""
    found = _TRAIL.fullmatch(getattr(layer, "metadata", "") or "")
    if found is None:
        return _printable(layer.name), None
    if found["function"] is None or found["function"] in _SUBGRAPHS:
        return _printable(found["node"]), None
    return _printable(found["caller"]), found["function"]


def _printable(name: str) -> str:
    """A name as the manifest takes it; a foreign file may call its nodes anything."""
    return as_printable(name)[:200] or "unnamed"


def _computes_in(trt: ModuleType, layer: Any, made_by: dict[str, Any]) -> str:
    """The type of a heavy layer's inputs; of quantised ones that which they were dequantised from."""
    inputs = [tensor for index in range(layer.num_inputs) if (tensor := layer.get_input(index)) is not None]
    makers = [made_by.get(tensor.name) for tensor in inputs[:2]]  # A bias is no input that counts.
    if len(makers) == 2 and all(m is not None and m.type == trt.LayerType.DEQUANTIZE for m in makers):
        return layer_type(trt, makers[0].get_input(0).dtype)  # type: ignore[union-attr]
    return layer_type(trt, inputs[0].dtype)

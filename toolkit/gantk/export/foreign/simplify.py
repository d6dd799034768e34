# SPDX-License-Identifier: Apache-2.0
"""A file from elsewhere with its constants computed, by onnxscript."""

from __future__ import annotations

import math

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, RemoveInitializersFromInputsPass

from gantk.errors import BackendMissingError, GantkError

_FOLDED = 2**26
"""The values that a constant may have, 256 MB of them, which is computed when a graph is simplified."""

_NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}
"""What changes nothing where it is added, and so on."""


def simplify(proto: onnx.ModelProto, where: str) -> ir.Model:
    """With constants computed, all of them weights, and batch normalisations folded.

    Args:
        proto: The file, with its weights inside.
        where: Its name in errors.

    Raises:
        GantkError: It cannot be simplified.
        BackendMissingError: onnxscript is not installed.
    """
    try:
        from onnxscript import optimizer
    except ImportError as error:
        raise BackendMissingError(
            "an ONNX file is brought to another precision by onnxscript, which is not installed",
            hint="pip install onnxscript",
        ) from error
    graph = ir.from_proto(proto)
    RemoveInitializersFromInputsPass()(graph)  # Old files name weights among their inputs.
    hidden = _hide_nearly_neutral(graph.graph)
    try:
        # Weights are normalised in some graphs, which is to be done in float32.
        optimizer.optimize_ir(
            graph,
            inline=False,
            input_size_limit=_FOLDED,
            output_size_limit=_FOLDED,
            should_fold=_is_filled,
        )
        if hidden:
            _show(graph.graph, hidden)
            optimizer.fold_constants_ir(graph, input_size_limit=_FOLDED, output_size_limit=_FOLDED)
            LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(graph)
    except Exception as error:
        raise GantkError(
            f"onnxscript cannot simplify `{where}`: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}",
            where=where,
            hint="leave --precision out: engines compute in the types of the file",
        ) from error
    return graph


def _is_filled(node: ir.Node) -> bool | None:
    """Whether a node fills a tensor with one number, as older exporters begin the amounts of a padding.

    onnxscript would leave it, and then all that follows from it; `None` leaves others to onnxscript.
    """
    return True if node.op_type == "ConstantOfShape" else None


def _hide_nearly_neutral(graph: ir.Graph) -> dict[ir.Value, ir.TensorProtocol]:
    """Put inputs in the place of numbers that onnxscript takes for 0 or 1 and are not: it would leave them out.

    So the 1e-8 that keeps the root of a mean square from being 0 is lost, and a pixel without any colour is divided
    by 0.
    """
    hidden: dict[ir.Value, ir.TensorProtocol] = {}
    for node in graph:
        neutral = _NEUTRAL.get(node.op_type) if node.domain in ("", "ai.onnx") else None
        for index, value in enumerate(node.inputs):
            number = None if value is None else ir.convenience.get_const_tensor(value)
            if (
                neutral is None
                or number is None
                or number.shape.rank() != 0
                or not number.dtype.is_floating_point()
            ):
                continue
            given = float(number.numpy())
            if given == neutral or not math.isclose(given, neutral, rel_tol=1e-4, abs_tol=1e-7):
                continue
            place = ir.Value(
                name=f"{node.name or node.outputs[0].name}/nearly_{neutral:g}",
                shape=ir.Shape([]),
                type=ir.TensorType(number.dtype),
            )
            node.replace_input_with(index, place)
            graph.inputs.append(place)
            hidden[place] = number
    return hidden


def _show(graph: ir.Graph, hidden: dict[ir.Value, ir.TensorProtocol]) -> None:
    """Put the numbers back, as weights."""
    for place, number in hidden.items():
        graph.inputs.remove(place)
        place.const_value = ir.tensor(number.numpy(), dtype=number.dtype, name=place.name)
        graph.register_initializer(place)

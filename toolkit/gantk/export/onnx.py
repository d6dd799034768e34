# SPDX-License-Identifier: Apache-2.0
"""From a PyTorch module to a float32 ONNX graph with readable names, dynamic in its symbols."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import onnx_ir as ir
import torch
from torch import nn

from gantk.errors import GantkError
from gantk.export.opset import OPSET
from gantk.tensors import TensorSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

_SCOPES = "pkg.torch.onnx.name_scopes"
_WRAPPER = "module."  # What `gantk.models.borders` puts before every name.
_SIDE = 37


@dataclass(frozen=True)
class Traced:
    """A module as a graph.

    Args:
        graph: The float32 ONNX graph.
        program: What PyTorch captured and decomposed; the names of its nodes are those of the graph's values.
    """

    graph: ir.Model
    program: torch.export.ExportedProgram


def trace(module: nn.Module, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> Traced:
    """Capture a module and translate it to ONNX.

    Args:
        module: In eval mode, float32, on the CPU.
        inputs: Of its `forward`, in order; their symbols become symbolic sizes of the graph.
        outputs: What it returns, in order.

    Raises:
        GantkError: PyTorch cannot capture the module or translate it.
    """
    sizes = _example_sizes(inputs)
    examples = tuple(_example(spec, sizes) for spec in inputs)
    try:
        with _quiet():
            program = torch.export.export(
                module,
                examples,
                dynamic_shapes=_dynamic_shapes(module, inputs),
                # That a crop to H rows leaves H rows is beyond the tracer; the parity gate tries many sizes.
                prefer_deferred_runtime_asserts_over_guards=True,
            )
            exported = torch.onnx.export(
                program,
                (),
                dynamo=True,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                opset_version=OPSET,
                external_data=False,
                verbose=False,
            )
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise GantkError(
            f"PyTorch cannot export this network: {reason[0] if reason else type(error).__name__}",
            where=type(module).__name__,
            hint="its forward must be free of Python control flow that depends on tensor values",
        ) from error
    assert exported is not None
    graph = exported.model
    _name_sizes(graph, inputs, outputs)
    _name_layers(graph)
    assert exported.exported_program is not None
    return Traced(graph, exported.exported_program)


def _example(spec: TensorSpec, sizes: dict[str, int]) -> torch.Tensor:
    dtype = getattr(torch, spec.dtype)
    shape = spec.concrete(sizes)
    return torch.randn(shape, dtype=dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype)


def _example_sizes(inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """A size for each symbol. 0 and 1 are special to the tracer; any other that is large enough stands for all."""
    sizes: dict[str, int] = {}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            if isinstance(size, str):
                side = max(_SIDE, spec.smallest) + 6 * len(sizes)
                sizes.setdefault(size, side if axis in (spec.picture_axes or ()) else 2)
    return sizes


def _dynamic_shapes(module: nn.Module, inputs: Sequence[TensorSpec]) -> Any:
    """Which axes of the arguments of a module's `forward` may have any size."""
    symbols: dict[str, Any] = {}
    for spec in inputs:
        for axis, size in enumerate(spec.shape):
            least = spec.smallest if axis in (spec.picture_axes or ()) else 1
            if isinstance(size, str) and size not in symbols:
                symbols[size] = torch.export.Dim(size, min=least)
    dynamic = tuple(
        {axis: symbols[s] for axis, s in enumerate(spec.shape) if isinstance(s, str)} for spec in inputs
    )
    kinds = [parameter.kind for parameter in inspect.signature(module.forward).parameters.values()]
    return (dynamic,) if kinds == [inspect.Parameter.VAR_POSITIONAL] else dynamic


def _name_sizes(graph: ir.Model, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Give symbolic sizes the names that the specs give them, in place of the tracer's ``s81``."""
    names: dict[str, str] = {}
    for value, spec in zip(graph.graph.inputs, inputs, strict=True):
        assert value.shape is not None
        for size, wanted in zip(value.shape, spec.shape, strict=True):
            if isinstance(size, ir.SymbolicDim) and size.value is not None and isinstance(wanted, str):
                names[size.value] = wanted
    values = [*graph.graph.inputs, *(output for node in graph.graph for output in node.outputs)]
    for value in values:
        for axis, size in enumerate(value.shape or ()):
            if isinstance(size, ir.SymbolicDim) and size.value is not None:
                assert value.shape is not None
                value.shape[axis] = re.sub(r"[A-Za-z_]\w*", lambda m: names.get(m[0], m[0]), size.value)
    # The tracer says ``Min(H, 4*((H - 1)//4) + 4)`` where the network promises H.
    for value, spec in zip(graph.graph.outputs, outputs, strict=True):
        value.shape = ir.Shape(spec.shape)


def _name_layers(graph: ir.Model) -> None:
    """Name each node by the module it came from, e.g. ``layers.3/ConvTranspose``, and drop the tracer's notes.

    The notes hold stack traces with paths of the machine that exported.
    """
    used: dict[str, int] = {}
    for node in graph.graph:
        scopes = [scope for scope in ast.literal_eval(node.metadata_props.get(_SCOPES, "[]")) if scope]
        layer = f"{scopes[-2]}.".removeprefix(_WRAPPER)[:-1] if len(scopes) > 1 else ""
        name = f"{layer}/{node.op_type}" if layer else node.op_type
        used[name] = used.get(name, 0) + 1
        node.name = name if used[name] == 1 else f"{name}.{used[name]}"
        node.metadata_props.clear()
        node.doc_string = None
    for value in list(graph.graph.initializers.values()):
        assert value.name is not None
        value.name = value.name.removeprefix(_WRAPPER)
    for value in (
        *graph.graph.inputs,
        *graph.graph.initializers.values(),
        *(o for n in graph.graph for o in n.outputs),
    ):
        value.metadata_props.clear()
        value.doc_string = None
    graph.metadata_props.clear()
    graph.graph.metadata_props.clear()


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and warnings, which are about its own inside, off the user's terminal."""
    import logging

    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

# SPDX-License-Identifier: Apache-2.0
"""A float32 graph on its way into a bundle, and the ONNX files of it: none without passing the parity gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from gantk.bundle import FileRef, Parity, Variant
from gantk.errors import GantkError
from gantk.export import verify
from gantk.export.precision import convert
from gantk.export.reference import Reference
from gantk.export.rewrites.channels_last import CHANNELS_LAST
from gantk.export.rewrites.wholly_native import MARK
from gantk.export.serialize import serialize
from gantk.tensors import TensorSpec

Locate = Callable[[bytes, str, str], tuple[str, float] | None]
"""By a file, a backend and a precision: the layer at which the file parts from what it should compute, and by what
share of its largest value; `None` where none can be told."""


@dataclass(frozen=True)
class Original:
    """A float32 graph on its way into a bundle.

    Args:
        graph: The graph, as files of any precision and form are made of it.
        inputs: Of the graph.
        outputs: Of the graph.
        model: What its files tell of it: ``family``, ``name`` and ``config``.
        psnr_min: The smallest PSNR against the references in dB, in place of each precision's own threshold.
        locate: Finds the layer at fault.
        source: What errors call that which files are compared with; by default the reference.
    """

    graph: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    model: dict[str, Any]
    psnr_min: float | None
    locate: Locate
    source: str | None = None


@dataclass(frozen=True)
class VariantFile:
    """A file that passed the parity gate, and what the manifest says of it."""

    data: bytes
    variant: Variant


@dataclass(frozen=True)
class Checks:
    """What every file of one precision is held against.

    Args:
        precision: Of the files.
        references: All made from the same feeds.
        of_torch: What PyTorch itself makes of the precision.
    """

    precision: str
    references: tuple[Reference, ...]
    of_torch: tuple[Parity, ...] = ()


def serialized(original: Original, graph: ir.Model, precision: str, form: str) -> bytes:
    """The file of a graph that was made of an original's."""
    facts: dict[str, Any] = {"model": original.model, "precision": precision, "form": form}
    if CHANNELS_LAST in graph.metadata_props:
        facts["channels_last"] = True
    if MARK in graph.metadata_props:
        facts["wholly_native"] = True
    return serialize(graph, original.inputs, original.outputs, facts)


def verified_file(original: Original, graph: ir.Model, checks: Checks, form: str) -> VariantFile:
    """Lower a float32 graph that was made of an original's, and pass its file through the gate.

    Raises:
        GantkError: A weight does not fit into the precision, or the file does not compute what it should: the layer is
            named.
    """
    precision = checks.precision
    low = convert(graph, precision)
    data = serialized(original, low, precision, form)
    verdicts = list(checks.of_torch)
    native = verify.native_backends(precision) if MARK in graph.metadata_props else ()
    for backend in (*native, *verify.working_backends(precision)):
        verdicts += verify.measure(data, precision, backend, checks.references, original.psnr_min)
    for verdict in verify.decisive(verdicts, precision):
        if not verdict.passed:
            raise _refusal(original, data, precision, verdict)
    name = f"model.{precision}.onnx" if form == "plain" else f"model.{precision}.{form}.onnx"
    opset = low.opset_imports[""]
    return VariantFile(data, Variant(FileRef.of(name, data), precision, form, opset, tuple(verdicts)))


def _refusal(original: Original, data: bytes, precision: str, verdict: Parity) -> GantkError:
    """Say what is off, by how much, and which layer is the first to be."""
    if verdict.backend == "torch":
        what = f"the network does not survive {precision}: PyTorch's own {verdict.reason}"
        return GantkError(
            what, where=f"{precision}, {verdict.reference}", hint="--precision fp32, or a lower --psnr-min"
        )
    found = original.locate(data, verdict.backend, precision)
    layer = (
        ""
        if found is None
        else f"; layer `{found[0]}` is the first to part, by {found[1]:.2g} of its largest value"
    )
    return GantkError(
        f"the {precision} file does not compute on {verdict.backend} what {original.source or verdict.reference} does: "
        f"{verdict.reason}{layer}",
        where=f"{precision}, {verdict.backend} {verdict.version}",
        hint="nothing was written; --psnr-min DB accepts less, another --precision may hold",
    )

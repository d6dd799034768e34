# SPDX-License-Identifier: Apache-2.0
"""A float32 ONNX file from elsewhere in another precision or form, held against what it computes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from gantk.bundle import Parity
from gantk.errors import BackendMissingError, GantkError
from gantk.export import verify
from gantk.export.engines.probe import cpu_backends
from gantk.export.engines.progress import Report
from gantk.export.foreign.graphs import halved, lowerable, simplified
from gantk.export.layers import first_apart
from gantk.export.opset import OPSET
from gantk.export.original import Checks, Original, VariantFile, serialized, verified_file
from gantk.export.precision import audit_range, convert, expose_intermediates, refuse_overflow
from gantk.export.reference import Feeds, Reference, picture_sizes
from gantk.export.rewrites.modulated import modulated_to_features
from gantk.export.rewritten import with_rewritten
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.parity import span_of
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array

SEEDS = (1, 2, 3)


def random_inputs(model: Model, sizes: Mapping[str, int]) -> list[Feeds]:
    """What a file is tried with; `sizes` are what the symbols of its inputs stand for."""
    return [random_feeds(model.inputs, sizes, seed) for seed in SEEDS]


def reference_of(model: Model, feeds: Sequence[Feeds]) -> Reference:
    """What the first backend that runs a file makes of inputs.

    Args:
        model: A float32 file.
        feeds: The inputs.

    Raises:
        BackendMissingError: None runs here.
        GantkError: It does not run the file.
    """
    backend = next(cpu_backends(model), None)
    if backend is None:
        raise BackendMissingError(
            "no backend works here to compare files of other precisions with",
            hint="pip install 'gantk[cpu]'; gantk doctor says more",
        )
    try:
        with open_model(model, backend, device="cpu") as runner:
            outputs = tuple(runner.run(feed) for feed in feeds)
    except GantkError as error:
        tried = ", ".join(f"{name} {'x'.join(map(str, array.shape))}" for name, array in feeds[0].items())
        raise GantkError(
            f"`{model.where}` does not run on {tried}, so nothing can be compared with it: {error.what}",
            where=error.where,
            hint="--opt says what else it takes, where an engine is built of it: --to tensorrt-rtx",
        ) from error
    spans = {
        spec.name: span_of(np.concatenate([made[spec.name].ravel() for made in outputs]), spec.range)
        for spec in model.outputs
    }
    name = f"{backend} float32"
    return Reference(name, tuple(feeds), outputs, spans, picture_sizes(model.inputs, feeds))


def verdicts_on(model: Model, reference: Reference) -> list[Parity]:
    """Whether the other backends that work here make of a file what the first one does: one may have it wrong."""
    return [
        verdict
        for backend in verify.working_backends(model.precision)
        if not reference.name.startswith(backend)
        for verdict in verify.measure(model.data, model.precision, backend, [reference], None)
    ]


def lower(model: Model, precision: str, reference: Reference, psnr_min: float | None = None) -> VariantFile:
    """A float32 file in another precision, which computes what it does.

    Args:
        model: The file.
        precision: ``fp16`` or ``bf16``.
        reference: From `reference_of`.
        psnr_min: The smallest PSNR against it in dB, in place of the precision's own threshold.

    Raises:
        GantkError: An operator's types cannot be told, a layer leaves fp16's range, or what the new file computes is
            too far off: the layer is named.
        BackendMissingError: No backend runs files of this precision here.
    """
    original = _original(model, lowerable(model, precision), reference, psnr_min)
    if precision == "fp16":
        _audit_range(original, reference)
    if not verify.working_backends(precision):
        raise BackendMissingError(
            f"no backend here runs {precision} files, so this one could not be compared with the float32 one",
            where=f"{precision}, {model.where}",
            hint="pip install 'gantk[cpu,openvino]'",
        )
    return verified_file(original, original.graph, Checks(precision, (reference,)), "plain")


def with_faster(
    model: Model,
    plain: VariantFile,
    reference: Reference,
    timed: Sequence[Feeds],
    psnr_min: float | None,
    report: Report,
) -> list[VariantFile]:
    """A file, and what rewrites make of it where they make it faster: see `gantk.export.rewritten.with_rewritten`.

    Args:
        model: The float32 file.
        plain: The same, or what `lower` made of it.
        reference: From `reference_of`.
        timed: Inputs to measure with.
        psnr_min: The smallest PSNR against the reference in dB, in place of the precision's own threshold.
        report: Called with a line for each rewrite, or one that says why none is tried.
    """
    precision = plain.variant.precision
    try:
        graph = lowerable(model, precision, OPSET)
    except GantkError as error:
        report(f"  {precision}: no rewrites are tried, for {error.what}")
        return [plain]
    original = _original(model, graph, reference, psnr_min)
    return with_rewritten(original, plain, Checks(precision, (reference,)), timed, report)


def quantisable(model: Model, precision: str) -> bytes:
    """A float32 file, simplified, of which `gantk.export.int8.quantise` makes one of int8 or fp8.

    Weights that are modulated for each picture are constants, for others have no ranges.
    """
    graph = simplified(model, precision)
    modulated_to_features(graph)
    original = _original(model, graph, None, None)
    return serialized(original, original.graph, "fp32", "plain")


def _original(model: Model, graph: ir.Model, reference: Reference | None, psnr_min: float | None) -> Original:
    """What files are made of; `reference` is what the layer at fault is found by."""
    facts = {"family": "onnx", "name": model.name, "config": model.config}

    def locate(data: bytes, backend: str, precision: str) -> tuple[str, float] | None:
        assert reference is not None
        full = serialized(original, graph, "fp32", "plain")
        return _apart(full, data, reference.feeds[0], backend, precision)

    original = Original(graph, model.inputs, model.outputs, facts, psnr_min, locate, f"`{model.where}`")
    return original


def _audit_range(original: Original, reference: Reference) -> None:
    full = serialized(original, original.graph, "fp32", "plain")
    peaks = audit_range(full, reference.feeds, verify.working_backends("fp32")[0])
    in_half = halved(convert(original.graph, "fp16").graph)
    refuse_overflow({layer: peak for layer, peak in peaks.items() if layer in in_half})


def _apart(full: bytes, data: bytes, feeds: Feeds, backend: str, precision: str) -> tuple[str, float] | None:
    """The layer at which a file parts from the float32 one, and by what share of its largest value."""
    try:
        (right, _), (outputs, exposed) = (_intermediates(one, feeds, backend) for one in (full, data))
    except GantkError:
        return None
    return first_apart(
        outputs, exposed, lambda name, tensor, _: right.get(tensor, right.get(name)), precision
    )


def _intermediates(
    data: bytes, feeds: Feeds, backend: str
) -> tuple[dict[str, Array], dict[str, tuple[str, str]]]:
    graph = ir.from_proto(onnx.load_from_string(data))
    exposed = expose_intermediates(graph)
    with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), backend) as runner:
        return runner.run(feeds), exposed

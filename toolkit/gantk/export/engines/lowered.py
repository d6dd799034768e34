# SPDX-License-Identifier: Apache-2.0
"""A float32 ONNX file from elsewhere in another precision, held against what it computes itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir

from gantk.bundle import FileRef, Parity, Variant
from gantk.errors import BackendMissingError, GantkError
from gantk.export import verify
from gantk.export.engines.lowerable import halved, lowerable, simplified
from gantk.export.engines.probe import cpu_backends
from gantk.export.layers import first_apart
from gantk.export.precision import audit_range, convert, expose_intermediates, refuse_overflow
from gantk.export.reference import Feeds, Reference, picture_sizes
from gantk.export.serialize import serialize
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


def verdicts_on(model: Model, reference: Reference | None, feeds: Sequence[Feeds]) -> list[Parity]:
    """Whether the other backends that work here make of a file what the first one does: one may have it wrong.

    Args:
        model: The file.
        reference: From `reference_of`, where it is made already.
        feeds: What it is made of; there are no verdicts where the file does not run on all of these.
    """
    try:
        reference = reference or reference_of(model, feeds)
    except GantkError:
        return []
    return [
        verdict
        for backend in verify.working_backends(model.precision)
        if not reference.name.startswith(backend)
        for verdict in verify.measure(model.data, model.precision, backend, [reference], None)
    ]


def lower(
    model: Model, precision: str, reference: Reference, psnr_min: float | None = None
) -> tuple[bytes, Variant]:
    """A float32 file in another precision, which computes what it does.

    Args:
        model: The file.
        precision: ``fp16`` or ``bf16``.
        reference: From `reference_of`.
        psnr_min: The smallest PSNR against it in dB, in place of the precision's own threshold.

    Returns:
        The new file, and what the manifest says of it.

    Raises:
        GantkError: An operator's types cannot be told, a layer leaves fp16's range, or what the new file computes is
            too far off: the layer is named.
        BackendMissingError: No backend runs files of this precision here.
    """
    graph = lowerable(model, precision)
    full, low = _bytes(model, graph, "fp32"), convert(graph, precision)
    if precision == "fp16":
        peaks = audit_range(full, reference.feeds, verify.working_backends("fp32")[0])
        in_half = halved(low.graph)
        refuse_overflow({layer: peak for layer, peak in peaks.items() if layer in in_half})
    data = _bytes(model, low, precision)
    verdicts = _verdicts(model, full, data, precision, reference, psnr_min)
    opset = graph.opset_imports[""]
    ref = FileRef.of(f"model.{precision}.onnx", data)
    return data, Variant(ref, precision, "plain", opset, tuple(verdicts))


def quantisable(model: Model, precision: str) -> bytes:
    """A float32 file, simplified, of which `gantk.export.int8.quantise` makes one of int8 or fp8."""
    return _bytes(model, simplified(model, precision), "fp32")


def _bytes(model: Model, graph: ir.Model, precision: str) -> bytes:
    facts = {
        "model": {"family": "onnx", "name": model.name, "config": model.config},
        "precision": precision,
        "form": "plain",
    }
    return serialize(graph, model.inputs, model.outputs, facts)


def _verdicts(
    model: Model, full: bytes, data: bytes, precision: str, reference: Reference, psnr_min: float | None
) -> list[Parity]:
    """What each backend that runs the new file makes of it; refused where the decisive one is wrong."""
    backends = verify.working_backends(precision)
    if not backends:
        raise BackendMissingError(
            f"no backend here runs {precision} files, so this one could not be compared with the float32 one",
            where=f"{precision}, {model.where}",
            hint="pip install 'gantk[cpu,openvino]'",
        )
    verdicts = [
        verdict
        for backend in backends
        for verdict in verify.measure(data, precision, backend, [reference], psnr_min)
    ]
    for verdict in verify.decisive(verdicts, precision):
        if not verdict.passed:
            layer = _apart(full, data, reference.feeds[0], verdict.backend, precision)
            raise GantkError(
                f"the {precision} file does not compute on {verdict.backend} what `{model.where}` does: "
                f"{verdict.reason}{layer}",
                where=f"{precision}, {verdict.backend} {verdict.version}",
                hint="nothing was written; --psnr-min DB accepts less, another --precision may hold",
            )
    return verdicts


def _apart(full: bytes, data: bytes, feeds: Feeds, backend: str, precision: str) -> str:
    """The layer at which the new file parts from the float32 one, in words; empty where none can be told."""
    try:
        (right, _), (outputs, exposed) = (_intermediates(one, feeds, backend) for one in (full, data))
    except GantkError:
        return ""
    found = first_apart(
        outputs, exposed, lambda name, tensor, _: right.get(tensor, right.get(name)), precision
    )
    if found is None:
        return ""
    return f"; layer `{found[0]}` is the first to part, by {found[1]:.2g} of its largest value"


def _intermediates(
    data: bytes, feeds: Feeds, backend: str
) -> tuple[dict[str, Array], dict[str, tuple[str, str]]]:
    graph = ir.from_proto(onnx.load_from_string(data))
    exposed = expose_intermediates(graph)
    with open_model(from_bytes(ir.to_proto(graph).SerializeToString()), backend) as runner:
        return runner.run(feeds), exposed

# SPDX-License-Identifier: Apache-2.0
"""From a training run to a bundle: trace, lower, verify, rewrite where it pays, write."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from gantk import checkpoint
from gantk.bundle import Bundle, Interface, Manifest, Writer
from gantk.checkpoint import Generator
from gantk.errors import BackendMissingError, UsageError
from gantk.export import verify
from gantk.export.calibration import Calibration, calibration_feeds
from gantk.export.engines.maker import EngineMaker, Sources
from gantk.export.engines.profiles import PICTURE_BATCHES, SIDES
from gantk.export.engines.progress import Progress, Report
from gantk.export.fold import fold_scales
from gantk.export.int8 import QUANTISED
from gantk.export.network import Network
from gantk.export.onnx import trace
from gantk.export.original import VariantFile
from gantk.export.reference import make_feeds, trial_sizes
from gantk.export.statistics import make_statistics, with_own_statistics
from gantk.export.tools import tool_versions
from gantk.export.torch_reference import run_torch
from gantk.export.variants import make_quantised, make_variants
from gantk.models.borders import Bordered
from gantk.runtime.probe import Probe
from gantk.stylize.statistics import MEASURED, STATISTICS
from gantk.tensors import TensorSpec

PRECISIONS = ("fp32", "fp16", "bf16", *QUANTISED)
PROBE = (PICTURE_BATCHES[-1], SIDES[0], SIDES[0] + 16)
"""Samples, height and width of the probe's pictures: as small as engines serve, for every copy of a bundle has it."""

PROBE_SEED = 1


def export(
    source: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    precisions: Sequence[str] = ("fp32", "fp16"),
    pictures: bool | None = None,
    force: bool = False,
    rewrites: bool = True,
    tiles: bool = False,
    psnr_min: float | None = None,
    calibration: Calibration | None = None,
    engines: EngineMaker | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda phase, done, steps: None,
) -> Bundle:
    """Export a trained generator to a bundle of verified ONNX files.

    Args:
        source: A run folder, a checkpoint file, or a bundle to export again.
        output: The bundle's folder.
        precisions: Of `PRECISIONS`, a variant each. Inputs and outputs have the same types in all of them.
        pictures: Let pictures be uint8 NHWC pixels instead of float32 NCHW, on both sides of the graph; by
            default where the network takes pictures.
        force: Replace an existing bundle.
        rewrites: Try the exact rewrites, and keep a rewritten form where it is measured faster.
        tiles: Make a style network's form with statistics as an input too (`gantk.export.statistics`).
        psnr_min: The smallest PSNR against PyTorch in dB, in place of each precision's own threshold.
        calibration: Where the ranges of int8 and fp8 files come from.
        engines: What makes TensorRT engines of the files: a request to build them, or a refit.
        report: Called with a line at each step.
        progress: Told how far the build of each engine is.

    Raises:
        GantkError: The source cannot be read, or a file does not compute what PyTorch does: the error names
            the layer and by how much it is off, and nothing is written.
        UsageError: An unknown precision, no pictures to calibrate with, or shapes that do not suit the network.
        BackendMissingError: No backend is installed to verify with.
    """
    precisions = _checked(precisions)
    calibration = calibration or Calibration()
    if engines is not None:
        engines.check()
    generator = checkpoint.load_generator(source)
    draft = _draft(generator, pictures)
    # Whatever can be refused is refused before the first file is made, which takes minutes.
    if engines is not None:
        engines.check_network(
            draft, [Interface(draft.inputs, draft.outputs)], further=(STATISTICS,) if tiles else ()
        )
    found = next(
        (calibration_feeds(draft.inputs, calibration, p) for p in precisions if p in QUANTISED), None
    )
    with Writer(output, force=force) as writer:  # First, for it refuses at once where it may not write.
        network = _prepare(generator, pictures, psnr_min, report)
        files = []
        for precision in precisions:
            if precision in QUANTISED:
                assert found is not None
                files.append(make_quantised(network, precision, calibration, found, report))
            else:
                files += make_variants(network, precision, report, rewrites=rewrites)
        statistics = make_statistics(network, report) if tiles else None
        if statistics is not None:
            files.append(statistics)
        report("writing the bundle")
        manifest = replace(
            draft,
            variants=tuple(replace(f.variant, file=writer.add(f.variant.file.path, f.data)) for f in files),
            probe=writer.add("probe.safetensors", _probe(network, statistics)),
            checkpoint=writer.add(
                "checkpoint/generator.safetensors", checkpoint.generator_bytes(generator.module)
            ),
            tools=tool_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if engines is not None:
            data = {file.variant.file.sha256: file.data for file in files}
            sources = Sources(lambda v: data[v.file.sha256], lambda v: f"{source}, {v.label}")
            manifest = engines.make(writer, manifest, sources, report, progress)
        return writer.commit(manifest)


def takes_pictures(config: Any) -> bool:
    """Whether a network makes pictures of pictures, and not of latent vectors."""
    return any(spec.picture_axes is not None for spec in config.inputs)


def specs(config: Any, *, pictures: bool) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """The inputs and outputs of a network's graph.

    Args:
        config: As `gantk.models.configure` makes it.
        pictures: Whether pictures are pixels.
    """
    inputs, outputs = config.inputs, config.outputs
    if pictures:
        inputs, outputs = (tuple(spec.as_pixels() for spec in specs) for specs in (inputs, outputs))
    return inputs, outputs


def _checked(precisions: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not precisions:
        got = ", ".join(map(repr, unknown)) or "none"
        raise UsageError(
            f"the precisions asked for are {got}; those that can be exported are {', '.join(PRECISIONS)}"
        )
    return tuple(dict.fromkeys(precisions))


def _draft(generator: Generator, pictures: bool | None) -> Manifest:
    """What is known of a bundle before it has a file."""
    config: Any = generator.module.config
    inputs, outputs = specs(config, pictures=takes_pictures(config) if pictures is None else pictures)
    return Manifest(generator.family, generator.name, generator.config, inputs, outputs, variants=())


def _prepare(generator: Generator, pictures: bool | None, psnr_min: float | None, report: Report) -> Network:
    if not verify.working_backends("fp32"):
        raise BackendMissingError(
            "no backend works here to verify the export with",
            hint="pip install 'gantk[cpu]'; gantk doctor says more",
        )
    config: Any = generator.module.config
    pictures = takes_pictures(config) if pictures is None else pictures
    module = Bordered(generator.module, config.inputs, config.outputs, pixels=pictures).eval()
    inputs, outputs = specs(config, pictures=pictures)
    report("tracing with PyTorch")
    traced = trace(module, inputs, outputs)
    fold_scales(traced.graph)
    full = run_torch(module, inputs, outputs, make_feeds(inputs), "fp32")
    return Network(generator, module, inputs, outputs, traced, full, psnr_min)


def _probe(network: Network, statistics: VariantFile | None = None) -> bytes:
    """A few inputs with PyTorch's float32 outputs, by which a machine without PyTorch can check an engine.

    With the file of the form with statistics it has their own as well, as an input and as what is measured.
    """
    sizes = {**trial_sizes(network.inputs, [PROBE])[0], "N": PROBE[0]}
    feeds = make_feeds(network.inputs, [sizes], seed=PROBE_SEED)
    reference = run_torch(network.module, network.inputs, network.outputs, feeds, "fp32")
    inputs, outputs = feeds[0], reference.outputs[0]
    if statistics is not None:
        (inputs,) = with_own_statistics(statistics.data, feeds)
        outputs = {**outputs, MEASURED: inputs[STATISTICS]}
    return Probe(inputs, outputs).dumps()

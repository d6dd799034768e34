# SPDX-License-Identifier: Apache-2.0
"""From VGG-19 to a bundle with a verified optimisation step."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from torch import Tensor

from gantk.bundle import (
    STEP_FAMILY,
    Bundle,
    FileRef,
    Interface,
    Manifest,
    Parity,
    Variant,
    Writer,
    as_printable,
)
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export import verify
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.engines.progress import Progress as BuildProgress
from gantk.export.engines.progress import Report
from gantk.export.gatys.chain import Chain, StepConfig, adam_inputs, picture_spec, step_inputs
from gantk.export.gatys.draft import TYPES, StepGraph
from gantk.export.gatys.graphs import make_adam, make_gradient, make_targets
from gantk.export.gatys.reference import compute_adam, compute_gradient, compute_targets, to_arrays
from gantk.export.gatys.trials import make_trials
from gantk.export.opset import opset_of
from gantk.export.reference import Reference
from gantk.export.serialize import serialize
from gantk.export.tools import tool_versions
from gantk.gatys.layers import default_layers
from gantk.gatys.targets import feature_growth
from gantk.models.vgg import Progress, Vgg19, last_layer, load_vgg19
from gantk.runtime.parity import STEP_THRESHOLDS
from gantk.runtime.probe import Probe
from gantk.tensors import TensorSpec

PRECISIONS = tuple(TYPES)

Compute = Callable[[Vgg19, StepConfig, dict[str, Tensor]], dict[str, Tensor]]


@dataclass(frozen=True)
class _Step:
    """A step on its way into a bundle."""

    network: Vgg19
    config: StepConfig
    trials: tuple[dict[str, Tensor], ...]
    psnr_min: float | None
    name: str


@dataclass(frozen=True)
class _Form:
    """One of the graphs of a step, what goes into it, and what PyTorch has in its place."""

    name: str
    inputs: Callable[[Chain, StepConfig], tuple[TensorSpec, ...]]
    make: Callable[[Chain, StepConfig, str], StepGraph]
    compute: Compute


_FORMS = (
    _Form("plain", step_inputs, make_gradient, compute_gradient),
    _Form("adam", adam_inputs, make_adam, compute_adam),
    _Form(
        "targets",
        lambda chain, config: (picture_spec("picture"),),
        make_targets,
        lambda net, config, feeds: compute_targets(net, config, feeds["picture"]),
    ),
)


def export_step(
    vgg: Path | None,
    output: str | os.PathLike[str],
    *,
    style_layers: Sequence[str] | None = None,
    content_layer: str | None = None,
    pooling: str = "max",
    variation: str = "l1",
    epsilon: float = 1e-8,
    precisions: Sequence[str] = ("fp32",),
    force: bool = False,
    psnr_min: float | None = None,
    engines: EngineRequest | None = None,
    report: Report = lambda line: None,
    progress: Progress | None = None,
    building: BuildProgress = lambda phase, done, steps: None,
) -> Bundle:
    """Export the step of an optimisation towards content and style, for pictures of any size.

    Args:
        vgg: VGG-19's weights (see `gantk.models.vgg.load_vgg19`); by default torchvision's, fetched once.
        output: The bundle's folder.
        style_layers: Whose Gram matrices tell the style; by default those of `gantk stylize`.
        content_layer: Whose features tell the content; by default that of `gantk stylize`.
        pooling: ``max`` or ``average``.
        variation: The kind of total variation: ``l1``, ``l2`` or ``isotropic``.
        epsilon: Of an isotropic variation.
        precisions: Of `PRECISIONS`, what convolutions compute in; pictures, Gram matrices, losses and
            gradients are float32.
        force: Replace an existing bundle.
        psnr_min: The smallest PSNR against PyTorch in dB, in place of each precision's own threshold.
        engines: The TensorRT engines to build of the graphs.
        report: Called with a line at each step.
        progress: Told of a download.
        building: Told how far the build of each engine is.

    Raises:
        GantkError: The weights cannot be had or lack a layer, or a graph does not compute what PyTorch does:
            then nothing is written.
        UsageError: An unknown layer, pooling, variation or precision, or shapes that do not suit the step.
        BackendMissingError: No backend is installed that computes in a precision.
    """
    precisions = _checked(precisions)
    if engines is not None:
        engines.check()
    with Writer(output, force=force) as writer:  # First, for it refuses at once where it may not write.
        report("loading VGG-19")
        config = _configure(vgg, style_layers, content_layer, pooling, variation, epsilon, progress)
        network = load_vgg19(vgg, config.last, pooling, progress=progress)
        if engines is not None:
            _check_shapes(engines, Chain.of(network), config)
        step = _Step(network, config, make_trials(network, config), psnr_min, as_printable(Path(output).stem))
        made = [_make(step, form, precision, report) for precision in precisions for form in _FORMS]
        report("writing the bundle")
        interface = made[0][1].interface
        assert interface is not None
        manifest = Manifest(
            family=STEP_FAMILY,
            name=step.name,
            config={**config.to_json(), "growth": feature_growth(network)},
            inputs=interface.inputs,
            outputs=interface.outputs,
            variants=tuple(_added(writer, data, variant, interface) for data, variant in made),
            probe=writer.add("probe.safetensors", _probe(step)),
            tools=tool_versions(),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if engines is not None:
            files = {variant.file.sha256: data for data, variant in made}
            sources = Sources(lambda v: files[v.file.sha256], lambda v: f"{step.name}, {v.label}")
            manifest = engines.make(writer, manifest, sources, report, building)
        return writer.commit(manifest)


def _checked(precisions: Sequence[str]) -> tuple[str, ...]:
    unknown = [name for name in precisions if name not in PRECISIONS]
    if unknown or not precisions:
        got = ", ".join(map(repr, unknown)) or "none"
        raise UsageError(
            f"the precisions asked for are {got}; a step is exported in {', '.join(PRECISIONS)}",
            where="--precision",
        )
    for precision in precisions:
        if not verify.working_backends(precision):
            raise BackendMissingError(
                f"no backend that works here computes {precision}, so nothing can verify the step",
                hint="pip install 'gantk[cpu,openvino]'; gantk doctor says more",
            )
    return tuple(dict.fromkeys(precisions))


def _check_shapes(engines: EngineRequest, chain: Chain, config: StepConfig) -> None:
    """Refuse shapes that do not suit a step, before its graphs are made and verified."""
    interfaces = [Interface(form.inputs(chain, config), ()) for form in _FORMS]
    plain = interfaces[0]
    draft = Manifest(STEP_FAMILY, STEP_FAMILY, config.to_json(), plain.inputs, plain.outputs, variants=())
    engines.check_network(draft, interfaces)


def _configure(
    vgg: Path | None,
    style_layers: Sequence[str] | None,
    content_layer: str | None,
    pooling: str,
    variation: str,
    epsilon: float,
    progress: Progress | None,
) -> StepConfig:
    if style_layers is None or content_layer is None:
        content, style = default_layers(last_layer(vgg, progress=progress))
        style_layers, content_layer = style_layers or style, content_layer or content
    return StepConfig(tuple(style_layers), content_layer, pooling, variation, epsilon)


def _make(step: _Step, form: _Form, precision: str, report: Report) -> tuple[bytes, Variant]:
    """The file of one form in one precision, through the gate."""
    report(f"{precision} {form.name}: verifying against PyTorch")
    made = form.make(Chain.of(step.network), step.config, precision)
    model = {"family": STEP_FAMILY, "name": step.name, "config": step.config.to_json()}
    facts = {"model": model, "precision": precision, "form": form.name}
    data = serialize(made.graph, made.inputs, made.outputs, facts)
    reference = _reference(step, form, made.inputs, made.outputs)
    verdicts: list[Parity] = []
    for backend in verify.working_backends(precision):
        verdicts += verify.measure(
            data, precision, backend, [reference], step.psnr_min, STEP_THRESHOLDS[precision]
        )
    for verdict in verify.decisive(verdicts, precision):
        if not verdict.passed:
            raise GantkError(
                f"the {precision} step ({form.name}) does not compute on {verdict.backend} what "
                f"{verdict.reference} does: {verdict.reason}",
                where=f"{precision}, {verdict.backend} {verdict.version}",
                hint="nothing was written; --psnr-min DB accepts less, another --precision may hold",
            )
    name = f"model.{precision}.onnx" if form.name == "plain" else f"model.{precision}.{form.name}.onnx"
    return data, Variant(
        FileRef.of(name, data),
        precision,
        form.name,
        opset_of(precision),
        tuple(verdicts),
        interface=Interface(made.inputs, made.outputs),
    )


def _reference(
    step: _Step, form: _Form, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]
) -> Reference:
    made = [to_arrays(form.compute(step.network, step.config, feeds)) for feeds in step.trials]
    feeds = [to_arrays({spec.name: trial[spec.name] for spec in inputs}) for trial in step.trials]
    # The span over all trials: in a single one, a loss has but one value.
    spans = {
        spec.name: float(max(m[spec.name].max() for m in made) - min(m[spec.name].min() for m in made))
        for spec in outputs
    }
    sizes = tuple((feed["picture"].shape[2], feed["picture"].shape[3]) for feed in feeds)
    return Reference("torch float32", tuple(feeds), tuple(made), spans, sizes)


def _added(writer: Writer, data: bytes, variant: Variant, common: Interface) -> Variant:
    """The variant with its file in the bundle; the bundle's own interface is not said again."""
    ref = writer.add(variant.file.path, data)
    return Variant(
        ref,
        variant.precision,
        variant.form,
        variant.opset,
        variant.parity,
        interface=None if variant.interface == common else variant.interface,
    )


def _probe(step: _Step) -> bytes:
    """All forms' inputs with PyTorch's outputs, by which a machine without PyTorch can check an engine."""
    trial = step.trials[0]
    made: dict[str, Tensor] = {}
    for form in _FORMS:
        made |= form.compute(step.network, step.config, trial)
    return Probe(to_arrays(trial), to_arrays(made)).dumps()

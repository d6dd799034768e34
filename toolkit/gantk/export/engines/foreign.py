# SPDX-License-Identifier: Apache-2.0
"""An ONNX file from elsewhere as a bundle, so that its engines have a manifest that says what they need."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from gantk.bundle import FOREIGN_FAMILY, Bundle, Interface, Manifest, Profile, Variant, Writer
from gantk.errors import GantkError
from gantk.export.engines.maker import Report, Sources
from gantk.export.engines.pipeline import SKIPPED_FORMS, EngineRequest, make_engines
from gantk.export.engines.profiles import default_sizes
from gantk.export.engines.progress import Progress
from gantk.export.tools import tool_versions
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import Model, from_bytes, from_path
from gantk.runtime.parity import repeats
from gantk.runtime.registry import BACKENDS, executed, open_model, status
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

PROBE_BATCH, PROBE_SEED = 2, 1


def bundle_onnx(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    request: EngineRequest | None = None,
    *,
    force: bool = False,
    report: Report = lambda line: None,
    progress: Progress = lambda phase, done, steps: None,
) -> Bundle:
    """Make a bundle of an ONNX file, with its engines.

    There is no PyTorch to compare with: the bundle's probe, by which engines are verified where they can run, holds
    what the default backend makes of random inputs.

    Args:
        path: The file; weights that lie beside it are taken in.
        output: The bundle's folder.
        request: The engines to build.
        force: Replace an existing bundle.
        report: Called with a line at each step.
        progress: Told how far each build is.

    Raises:
        GantkError: It is no ONNX file, is in another precision or form than engines are built from, or a build
            fails: nothing is written.
    """
    model = _whole(from_path(Path(path)))
    _check_tensors(model)
    if request is not None:
        _check_source(model, request)
    with Writer(output, force=force) as writer:
        report(f"reading {path}")
        name = f"model.{model.precision}.onnx"
        variant = Variant(writer.add(name, model.data), model.precision, model.form, _opset(model.data))
        manifest = Manifest(
            family=FOREIGN_FAMILY,
            name=model.name,
            config=model.config,
            inputs=model.inputs,
            outputs=model.outputs,
            variants=(variant,),
            tools=tool_versions(traced=False),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        interface = Interface(model.inputs, model.outputs)
        profiles = () if request is None else request.profiles(manifest, interface)
        probe = _probe(model, _probe_sizes(model.inputs, profiles), report)
        if probe is not None:
            manifest = replace(manifest, probe=writer.add("probe.safetensors", probe))
        if request is not None:
            sources = Sources(lambda _: model.data, lambda _: model.where)
            manifest = make_engines(writer, manifest, sources, request, report, progress)
        return writer.commit(manifest)


def _check_tensors(model: Model) -> None:
    """Refuse a file that takes or yields nothing: what it computes is always the same, or is lost."""
    for kind, specs in (("input", model.inputs), ("output", model.outputs)):
        if not specs:
            raise GantkError(
                f"`{model.where}` has no {kind}, and a bundle's networks have at least one",
                where=model.where,
            )


def _check_source(model: Model, request: EngineRequest) -> None:
    """Refuse a file of which engines as asked for are not built."""
    others = [precision for precision in request.precisions if precision != model.precision]
    if others:
        raise GantkError(
            f"`{model.where}` is {model.precision}, not {' or '.join(others)}: "
            "TensorRT computes in the types of the graph",
            where=model.where,
            hint="leave --precision out, or export the network from PyTorch (gantk export RUN)",
        )
    if model.form in SKIPPED_FORMS:
        raise GantkError(
            f"`{model.where}` is the {model.form} form, made for another backend; engines are built from the plain one",
            where=model.where,
            hint="give the bundle that it comes from, or the plain file beside it",
        )


def _whole(model: Model) -> Model:
    """A model with its weights inside the one file."""
    if not model.external or model.path is None:
        return model
    import onnx

    return from_bytes(onnx.load(model.path).SerializeToString(), model.path)


def _opset(data: bytes) -> int:
    import onnx

    imports = onnx.load_from_string(data).opset_import
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 1)


def _probe_sizes(inputs: Sequence[TensorSpec], profiles: Sequence[Profile]) -> dict[str, int]:
    """What symbols stand for in the probe: small sizes that engines serve, and a batch of some, if it is free."""
    ranges: Mapping[str, tuple[int, int, int]] = default_sizes(inputs)
    if profiles:
        ranges = {
            symbol: (shapes.min[axis], shapes.opt[axis], shapes.max[axis])
            for spec in inputs
            for shapes in (profiles[0][spec.name],)
            for axis, symbol in enumerate(spec.shape)
            if isinstance(symbol, str)
        }
    batches = {spec.shape[0] for spec in inputs if spec.shape}
    return {
        symbol: min(max(low, PROBE_BATCH), high) if symbol in batches else low
        for symbol, (low, _, high) in ranges.items()
    }


def _probe(model: Model, sizes: Mapping[str, int], report: Report) -> bytes | None:
    """Random inputs with what the first backend that runs the file makes of them; `None` where no engine is judged so.

    Raises:
        GantkError: An output has no finite value.
    """
    from safetensors.numpy import save

    feeds = random_feeds(model.inputs, sizes, seed=PROBE_SEED)
    for name in BACKENDS:
        here = status(name)
        if not here.works or executed(name, model.precision, here.devices[0]) is None:
            continue
        try:
            with open_model(model, name) as runner:
                outputs, again = runner.run(feeds), runner.run(feeds)
        except GantkError:
            continue
        unfit = _unfit(model, outputs, again)
        if unfit is not None:
            report(f"  without a probe, by which engines are verified: {unfit}")
            return None
        return save(
            {
                **{f"input.{key}": array for key, array in feeds.items()},
                **{f"output.{key}": array for key, array in outputs.items()},
            }
        )
    return None


def _unfit(model: Model, outputs: dict[str, Array], again: dict[str, Array]) -> str | None:
    """Why outputs for random inputs are nothing to judge an engine by, or `None`; `again` is what a second run made.

    Raises:
        GantkError: An output has no finite value.
    """
    for name, values in outputs.items():
        finite = np.isfinite(values.astype(np.float64))
        if values.size and not finite.any():
            raise GantkError(
                f"`{model.where}` itself yields nothing but NaN and infinite values in {name!r}",
                where=f"{model.where}, {name}",
                hint="look for weights that are not finite, and for layers that overflow",
            )
        if not finite.all():
            return f"with random inputs {name!r} is not finite everywhere"
        if not repeats(values, again[name]):
            return f"{name!r} is random, another one in each run"
    return None

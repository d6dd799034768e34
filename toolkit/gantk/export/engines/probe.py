# SPDX-License-Identifier: Apache-2.0
"""Probes of ONNX files: random inputs, with what a backend makes of them, by which engines of any shapes are judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np

from gantk.bundle import STEP_FAMILY, Engine, Manifest, Profile, Writer
from gantk.errors import GantkError
from gantk.export.engines.maker import Sources
from gantk.export.engines.profiles import SIDES, default_sizes
from gantk.export.engines.progress import Report
from gantk.runtime.arrays import random_array, random_feeds
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.parity import repeats
from gantk.runtime.probe import Probe, probe_of
from gantk.runtime.registry import BACKENDS, executed, open_model, status
from gantk.runtime.runner import Array
from gantk.stylize.statistics import STATISTICS, own_statistics
from gantk.tensors import TensorSpec

BATCH, SEED = 2, 1


def with_probe(
    writer: Writer, manifest: Manifest, engine: Engine, sources: Sources, report: Report
) -> Engine:
    """An engine, with a probe of its own where the bundle's has no shape that it serves.

    What is right is what the float32 file makes of it, which was compared with PyTorch.

    Args:
        writer: Of the bundle.
        manifest: Of the bundle, with the engines that were made before.
        engine: Just made.
        sources: The ONNX files.
        report: Called with a line where a probe cannot be made.
    """
    if manifest.probe is None:
        return engine
    bundle = writer.so_far(manifest)
    for ref in dict.fromkeys((None, *(other.probe for other in manifest.engines))):
        if probe_of(bundle, replace(engine, probe=ref)):
            return replace(engine, probe=ref)
    model = _most_exact(manifest, sources, engine.form)
    feeds = feeds_for(model.inputs, engine.profiles)
    try:
        if manifest.family == STEP_FAMILY and engine.form != "targets":
            known = Probe.read(bundle, manifest.probe)
            feeds = _of_a_step(feeds, known, _most_exact(manifest, sources, "targets"))
        largest = max(feeds, key=lambda name: feeds[name].size)
        shape = "x".join(map(str, feeds[largest].shape))
        report(
            f"  computing what is right for {largest} {shape}, to judge it by"
        )  # Of large pictures for minutes.
        probe = make_probe(model, feeds, report)
    except GantkError as error:
        report(f"  without a probe, by which engines are verified: {error.what}")
        return engine
    return engine if probe is None else replace(engine, probe=writer.add("probe.safetensors", probe.dumps()))


def feeds_for(inputs: Sequence[TensorSpec], profiles: Sequence[Profile]) -> dict[str, Array]:
    """Random inputs as small as an engine serves, or of the usual shapes where there is no engine."""
    return random_feeds(inputs, probe_sizes(inputs, profiles), seed=SEED)


def make_probe(model: Model, feeds: Mapping[str, Array], report: Report) -> Probe | None:
    """Inputs with what the first backend that runs a file makes of them; `None` where they judge no engine.

    Args:
        model: The file.
        feeds: Its inputs; statistics of a picture are replaced by those that it has.
        report: Called with a line that says why there is none.

    Raises:
        GantkError: An output has no finite value.
    """
    for name in cpu_backends(model):
        try:
            with open_model(model, name, device="cpu") as runner:
                if model.form == "statistics":
                    given = {key: feeds[key] for key in feeds if key != STATISTICS}
                    feeds = {**given, STATISTICS: own_statistics(runner, model.data, given)}
                outputs, again = runner.run(feeds), runner.run(feeds)
        except GantkError:
            continue
        unfit = _unfit(model, outputs, again)
        if unfit is not None:
            report(f"  without a probe, by which engines are verified: {unfit}")
            return None
        return Probe(dict(feeds), outputs)
    return None


def _of_a_step(feeds: Mapping[str, Array], known: Probe, targets: Model) -> dict[str, Array]:
    """Inputs of an optimisation's first step, at other sizes than those of the bundle's probe.

    The picture is random; its content is that of another one; style and weights, which have one size, are the probe's.
    """
    backend = next(cpu_backends(targets), None)
    if backend is None:
        raise GantkError("no backend works here to compute targets with", hint="pip install 'gantk[cpu]'")
    with open_model(targets, backend, device="cpu") as runner:
        (spec,) = runner.inputs
        content = runner.run({spec.name: random_array(spec, feeds["picture"].shape, SEED + 1)})
    made = dict(feeds)
    for name, array in feeds.items():
        old = known.inputs.get(name)
        if old is not None and old.shape == array.shape:
            made[name] = old
        elif name in content:
            made[name] = content[name]
        elif name != "picture":
            made[name] = np.zeros_like(array)  # Adam's moments.
    return made


def cpu_backends(model: Model) -> Iterator[str]:
    """The backends that run a file on this machine's CPU, whose results owe nothing to the GPU that is judged."""
    for name in BACKENDS:
        if "cpu" in status(name).devices and executed(name, model.precision, "cpu") is not None:
            yield name


def _most_exact(manifest: Manifest, sources: Sources, form: str) -> Model:
    """The float32 file of a form, where there is one."""
    files = [variant for variant in manifest.variants if variant.form == form]
    if not files:
        raise GantkError(f"the bundle has no file of the form {form!r}")
    exact = next((variant for variant in files if variant.precision == "fp32"), files[0])
    return replace(from_bytes(sources.read(exact)), name=sources.name(exact))


def probe_sizes(inputs: Sequence[TensorSpec], profiles: Sequence[Profile]) -> dict[str, int]:
    """What symbols stand for in the probe: small sizes that engines serve, and a batch of some, if it is free.

    Where there is no engine, and nothing says what the four axes of a tensor are, it is taken for pictures.
    """
    sides = dict.fromkeys(
        (side for spec in inputs if len(spec.shape) == 4 for side in spec.shape if isinstance(side, str)),
        (SIDES[0], SIDES[0], SIDES[0]),
    )
    ranges: Mapping[str, tuple[int, int, int]] = {**sides, **default_sizes(inputs)}
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
        symbol: min(max(low, BATCH), high) if symbol in batches else low
        for symbol, (low, _, high) in ranges.items()
    }


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

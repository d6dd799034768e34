# SPDX-License-Identifier: Apache-2.0
"""An ONNX file from elsewhere as a bundle, so that its engines have a manifest that says what they need."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

from gantk.bundle import Bundle, Manifest, Variant, Writer
from gantk.errors import GantkError
from gantk.export.engines.maker import Report, Sources
from gantk.export.engines.pipeline import SKIPPED_FORMS, EngineRequest, make_engines
from gantk.export.engines.progress import Progress
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import Model, from_bytes, from_path
from gantk.runtime.registry import BACKENDS, executed, open_model, status

FAMILY = "onnx"

PROBE_SIDE, PROBE_BATCH, PROBE_SEED = 64, 2, 1


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
    if request is not None:
        _check_source(model, request)
    with Writer(output, force=force) as writer:
        report(f"reading {path}")
        name = f"model.{model.precision}.onnx"
        variant = Variant(writer.add(name, model.data), model.precision, model.form, _opset(model.data))
        probe = _probe(model)
        manifest = Manifest(
            family=FAMILY,
            name=model.name,
            config=model.config,
            inputs=model.inputs,
            outputs=model.outputs,
            variants=(variant,),
            probe=None if probe is None else writer.add("probe.safetensors", probe),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        if request is not None:
            sources = Sources(lambda _: model.data, lambda _: model.where)
            manifest = make_engines(writer, manifest, sources, request, report, progress)
        return writer.commit(manifest)


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


def _probe(model: Model) -> bytes | None:
    """Random inputs with what the first backend that runs the file makes of them; `None` where none does."""
    from safetensors.numpy import save

    sizes = {"N": PROBE_BATCH}
    for spec in model.inputs:
        for axis in spec.picture_axes or ():
            if isinstance(symbol := spec.shape[axis], str):
                sizes[symbol] = max(PROBE_SIDE, spec.smallest)
    feeds = random_feeds(model.inputs, sizes, seed=PROBE_SEED)
    for name in BACKENDS:
        here = status(name)
        if not here.works or executed(name, model.precision, here.devices[0]) is None:
            continue
        try:
            with open_model(model, name) as runner:
                outputs = runner.run(feeds)
        except GantkError:
            continue
        return save(
            {
                **{f"input.{key}": array for key, array in feeds.items()},
                **{f"output.{key}": array for key, array in outputs.items()},
            }
        )
    return None

# SPDX-License-Identifier: Apache-2.0
"""An ONNX file from elsewhere as a bundle, so that its engines have a manifest that says what they need."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from gantk.bundle import FOREIGN_FAMILY, Bundle, Interface, Manifest, Variant, Writer, as_printable
from gantk.errors import GantkError
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import SKIPPED_FORMS, EngineRequest, make_engines
from gantk.export.engines.probe import feeds_for, make_probe
from gantk.export.engines.progress import Progress, Report
from gantk.export.tools import tool_versions
from gantk.runtime.backends.vendor import vendor_errors
from gantk.runtime.model import Model, from_bytes, from_path


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
    _check_inputs(model)
    if request is not None:
        _check_source(model, request)
    with Writer(output, force=force) as writer:
        report(f"reading {path}")
        name = f"model.{model.precision}.onnx"
        variant = Variant(writer.add(name, model.data), model.precision, model.form, _opset(model.data))
        manifest = Manifest(
            family=FOREIGN_FAMILY,
            name=as_printable(model.name),
            config=model.config,
            inputs=model.inputs,
            outputs=model.outputs,
            variants=(variant,),
            tools=tool_versions(traced=False),
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        interface = Interface(model.inputs, model.outputs)
        profiles = () if request is None else request.profiles(manifest, interface)
        probe = make_probe(model, feeds_for(model.inputs, profiles), report)
        if probe is not None:
            manifest = replace(manifest, probe=writer.add("probe.safetensors", probe.dumps()))
        if request is not None:
            sources = Sources(lambda _: model.data, lambda _: model.where)
            manifest = make_engines(writer, manifest, sources, request, report, progress)
        return writer.commit(manifest)


def _check_inputs(model: Model) -> None:
    """Refuse a file that takes nothing: what it computes is always the same."""
    if not model.inputs:
        raise GantkError(
            f"`{model.where}` has no input, and a bundle's networks have at least one", where=model.where
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

    with vendor_errors(
        f"the weights of `{model.where}` cannot be taken in",
        model.where,
        "download them again, should they be cut; one ONNX file holds at most 2 GiB",
    ):
        data = onnx.load(model.path).SerializeToString()
    return from_bytes(data, model.path)


def _opset(data: bytes) -> int:
    import onnx

    imports = onnx.load_from_string(data).opset_import
    return next((entry.version for entry in imports if entry.domain in ("", "ai.onnx")), 1)

# SPDX-License-Identifier: Apache-2.0
"""An ONNX file from elsewhere as a bundle, so that its engines have a manifest that says what they need."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from gantk.bundle import FOREIGN_FAMILY, Bundle, Interface, Manifest, Variant, Writer, as_printable
from gantk.errors import GantkError, UsageError
from gantk.export.array_calibration import array_feeds
from gantk.export.calibration import Calibration, CalibrationFeeds
from gantk.export.engines.lowered import (
    lower,
    quantisable,
    random_inputs,
    reference_of,
    verdicts_on,
)
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import SKIPPED_FORMS, EngineRequest, make_engines
from gantk.export.engines.probe import feeds_for, make_probe, probe_sizes
from gantk.export.engines.progress import Progress, Report
from gantk.export.int8 import QUANTISED, quantise
from gantk.export.tools import tool_versions
from gantk.runtime.backends.vendor import vendor_errors
from gantk.runtime.model import Model, from_bytes, from_path


def bundle_onnx(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    request: EngineRequest | None = None,
    *,
    precisions: Sequence[str] = (),
    calibration: Calibration | None = None,
    psnr_min: float | None = None,
    force: bool = False,
    report: Report = lambda line: None,
    progress: Progress = lambda phase, done, steps: None,
) -> Bundle:
    """Make a bundle of an ONNX file, with its engines.

    There is no PyTorch to compare with: the bundle's probe, by which engines are verified where they can run, holds
    what the default backend makes of random inputs. Other backends, and files in other precisions, are held against the
    same.

    Args:
        path: The file; weights that lie beside it are taken in.
        output: The bundle's folder.
        request: The engines to build.
        precisions: Of further files to make of a float32 one. Those that engines are asked for in are among them.
        calibration: Where the ranges of int8 and fp8 files come from, and what judges all (see
            `gantk.export.array_calibration`); by default random inputs.
        psnr_min: The smallest PSNR of these against it in dB, in place of each precision's own threshold.
        force: Replace an existing bundle.
        report: Called with a line at each step.
        progress: Told how far each build is.

    Raises:
        GantkError: It is no ONNX file, is in a form that engines are not built from, cannot be brought to a precision,
            or a build fails: nothing is written.
        UsageError: A PSNR or arrays are given, and there is no file to judge; or int8 and fp8 lack arrays.
    """
    model = _whole(from_path(Path(path)))
    _check_inputs(model)
    if request is not None:
        _check_form(model)
        precisions = (*precisions, *request.precisions)
    calibration = calibration or Calibration()
    others = _others(model, precisions)
    given = {"--psnr-min": psnr_min, "--calibrate": calibration.folder}
    unused = next((option for option, value in given.items() if value is not None and not others), None)
    if unused is not None:
        raise UsageError(
            f"{unused} is for files in other precisions, and of `{model.where}` none is asked for",
            where=unused,
            hint="--precision fp16",
        )
    with Writer(output, force=force) as writer:
        report(f"reading {path}")
        name = f"model.{model.precision}.onnx"
        files = {writer.add(name, model.data): model.data}
        variant = Variant(next(iter(files)), model.precision, model.form, _opset(model.data))
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
        sizes = probe_sizes(model.inputs, profiles)
        found = _arrays(model, others, calibration, sizes)
        judges = random_inputs(model, sizes) if found is None else found.judges
        reference = (
            reference_of(model, judges) if others else None
        )  # First: it says why nothing can be compared.
        probe = make_probe(model, feeds_for(model.inputs, profiles), report)
        if probe is not None:
            variant = replace(variant, parity=tuple(verdicts_on(model, reference, judges)))
            manifest = replace(
                manifest, variants=(variant,), probe=writer.add("probe.safetensors", probe.dumps())
            )
        elif others:
            raise GantkError(
                f"there is nothing to compare `{model.where}` in {' or '.join(others)} with",
                where=model.where,
                hint="leave --precision out: engines compute in the types of the file",
            )
        for precision in others:
            report(f"{precision}: converting and verifying")
            if precision in QUANTISED:
                assert found is not None and reference is not None
                full = quantisable(model, precision)
                data, lowered = quantise(full, precision, calibration, found, reference, psnr_min, report)
            else:
                assert reference is not None
                data, lowered = lower(model, precision, reference, psnr_min)
            files[writer.add(lowered.file.path, data)] = data
            manifest = replace(manifest, variants=(*manifest.variants, lowered))
        if request is not None:
            sources = Sources(
                lambda v: files[v.file],
                lambda v: model.where if v is variant else f"{model.where} in {v.precision}",
            )
            manifest = make_engines(writer, manifest, sources, request, report, progress)
        return writer.commit(manifest)


def _arrays(
    model: Model, others: Sequence[str], calibration: Calibration, sizes: Mapping[str, int]
) -> CalibrationFeeds | None:
    """What int8 and fp8 take their ranges from, and what judges all files; `None` where that is random."""
    first = next((precision for precision in others if precision in QUANTISED), None)
    if first is None and calibration.folder is None:
        return None
    found = array_feeds(model.inputs, calibration, sizes, first or others[0])
    reference_of(model, found.calibrating)  # Here a wrong shape is told by name.
    return found


def _check_inputs(model: Model) -> None:
    """Refuse a file that takes nothing: what it computes is always the same."""
    if not model.inputs:
        raise GantkError(
            f"`{model.where}` has no input, and a bundle's networks have at least one", where=model.where
        )


def _check_form(model: Model) -> None:
    """Refuse a file of which no engines are built."""
    if model.form in SKIPPED_FORMS:
        raise GantkError(
            f"`{model.where}` is the {model.form} form, made for another backend; engines are built from the plain one",
            where=model.where,
            hint="give the bundle that it comes from, or the plain file beside it",
        )


def _others(model: Model, precisions: Sequence[str]) -> list[str]:
    """The precisions that a file is to be brought to, each once.

    Raises:
        GantkError: It cannot be.
    """
    others = [precision for precision in dict.fromkeys(precisions) if precision != model.precision]
    if others and model.precision != "fp32":
        raise GantkError(
            f"`{model.where}` is {model.precision}, and not {others[0]}",
            where=model.where,
            hint="give the float32 file that it was made of",
        )
    return others


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

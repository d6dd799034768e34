# SPDX-License-Identifier: Apache-2.0
"""An ONNX file from elsewhere as a bundle: compared across backends, made faster, in other precisions, as engines."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from gantk.bundle import FOREIGN_FAMILY, Bundle, Interface, Manifest, Variant, Writer, as_printable
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export import verify
from gantk.export.calibration import Calibration, CalibrationFeeds
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import SKIPPED_FORMS, EngineRequest, make_engines
from gantk.export.engines.probe import feeds_for, make_probe, probe_sizes
from gantk.export.engines.progress import Progress, Report
from gantk.export.foreign.calibration import array_feeds
from gantk.export.foreign.lowered import (
    lower,
    quantisable,
    random_inputs,
    reference_of,
    verdicts_on,
    with_faster,
)
from gantk.export.foreign.noise import NOISES, draws_noise, settled
from gantk.export.foreign.timed import timed_inputs
from gantk.export.int8 import QUANTISED, quantise
from gantk.export.original import VariantFile
from gantk.export.reference import Feeds, Reference
from gantk.export.tools import tool_versions
from gantk.runtime.backends.vendor import vendor_errors
from gantk.runtime.model import Model, check_choice, from_bytes, from_path

_SETTLE = "--noise constant draws the noise once and --noise zero leaves it out, so that there is something to compare"


def bundle_onnx(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    request: EngineRequest | None = None,
    *,
    precisions: Sequence[str] = (),
    rewrites: bool = True,
    noise: str | None = None,
    calibration: Calibration | None = None,
    psnr_min: float | None = None,
    force: bool = False,
    report: Report = lambda line: None,
    progress: Progress = lambda phase, done, steps: None,
) -> Bundle:
    """Make a bundle of an ONNX file, with what makes it faster here, and with its engines.

    There is no PyTorch to compare with: the bundle's probe, by which engines are verified where they can run, holds
    what the default backend makes of random inputs. Other backends, files in other precisions and rewritten ones are
    held against the same.

    Args:
        path: The file; weights that lie beside it are taken in.
        output: The bundle's folder.
        request: The engines to build.
        precisions: Of further files to make of a float32 one. Those that engines are asked for in are among them.
        rewrites: Try the exact rewrites of a float32 file, and keep a rewritten form where it is measured faster.
        noise: What becomes of noise that the file draws in each run, one of `gantk.export.foreign.noise.NOISES`; by
            default it is left as it is, and nothing can be made of the file but engines, which are not verified.
        calibration: Where the ranges of int8 and fp8 files come from, and what judges all (see
            `gantk.export.foreign.calibration`); by default random inputs.
        psnr_min: The smallest PSNR of these against it in dB, in place of each precision's own threshold.
        force: Replace an existing bundle.
        report: Called with a line at each step.
        progress: Told how far each build is.

    Raises:
        GantkError: It is no ONNX file, is in a form that engines are not built from, cannot be brought to a precision,
            or a build fails: nothing is written.
        UsageError: A PSNR or arrays are given, and there is no file to judge; int8 and fp8 lack arrays; or the file
            draws no noise.
    """
    if noise is not None:
        check_choice("noise", noise, NOISES)
    model = _whole(from_path(Path(path)))
    _check_inputs(model)
    if request is None:
        _check_backend(model)
    else:
        _check_form(model)
        precisions = (*precisions, *request.precisions)
    others = _others(model, precisions)
    calibration = calibration or Calibration()
    if not others and not (rewrites and _is_plain(model)):
        _refuse_judges(model, psnr_min, calibration)
    with Writer(output, force=force) as writer:
        report(f"reading {path}")
        if noise is not None:
            model = settled(model, noise, probe_sizes(model.inputs, ()))
        manifest = _manifest(writer, model)
        profiles = (
            () if request is None else request.profiles(manifest, Interface(model.inputs, model.outputs))
        )
        sizes = probe_sizes(model.inputs, profiles)
        found = _arrays(model, others, calibration, sizes)
        judges = random_inputs(model, sizes) if found is None else found.judges
        reference = _reference(model, judges, others, report)
        probe = make_probe(model, feeds_for(model.inputs, profiles), report)
        files = [VariantFile(model.data, manifest.variants[0])]
        if probe is not None:
            manifest = replace(manifest, probe=writer.add("probe.safetensors", probe.dumps()))
        else:
            _go_without_a_probe(model, others, report)
        if probe is not None and reference is not None:
            timed = timed_inputs(model, profiles) if rewrites and _is_plain(model) else ()
            judged = _Judged(model, reference, timed, psnr_min, report)
            files = judged.all(files[0], others, calibration, found)
        manifest = replace(
            manifest,
            variants=tuple(replace(f.variant, file=writer.add(f.variant.file.path, f.data)) for f in files),
        )
        if request is not None:
            data = {file.variant.file.sha256: file.data for file in files}
            sources = Sources(lambda v: data[v.file.sha256], lambda v: _called(model, v))
            manifest = make_engines(writer, manifest, sources, request, report, progress)
        return writer.commit(manifest)


def _go_without_a_probe(model: Model, others: Sequence[str], report: Report) -> None:
    """Refuse to make files of one that yields nothing to compare them with; say what would help.

    Raises:
        GantkError: Some are wanted.
    """
    settles = _SETTLE if draws_noise(model) else None
    if others:
        raise GantkError(
            f"there is nothing to compare `{model.where}` in {' or '.join(others)} with",
            where=model.where,
            hint=settles or "leave --precision out: engines compute in the types of the file",
        )
    if settles is not None:
        report(f"  {settles}")


@dataclass(frozen=True)
class _Judged:
    """A file, and what files that are made of it are held against.

    Args:
        model: The file.
        reference: What it computes.
        timed: The inputs that rewritten files are measured with; with none, none are tried.
        psnr_min: The smallest PSNR against the reference in dB, in place of each precision's own threshold.
        report: Called with a line at each step.
    """

    model: Model
    reference: Reference
    timed: tuple[Feeds, ...]
    psnr_min: float | None
    report: Report

    def all(
        self,
        file: VariantFile,
        others: Sequence[str],
        calibration: Calibration,
        found: CalibrationFeeds | None,
    ) -> list[VariantFile]:
        """The file, what is faster, and both in other precisions; quantised ones take ranges from what was found."""
        files = self.own(file)
        for precision in others:
            self.report(f"{precision}: converting and verifying")
            if precision in QUANTISED:
                assert found is not None
                files.append(self.quantised(precision, calibration, found))
            else:
                files += self.lowered(precision)
        return files

    def own(self, file: VariantFile) -> list[VariantFile]:
        """The file itself, with what other backends make of it, and what is faster."""
        verdicts = tuple(verdicts_on(self.model, self.reference))
        return self._with_faster(replace(file, variant=replace(file.variant, parity=verdicts)))

    def lowered(self, precision: str) -> list[VariantFile]:
        """The file in a lower precision, and what is faster."""
        return self._with_faster(lower(self.model, precision, self.reference, self.psnr_min))

    def quantised(self, precision: str, calibration: Calibration, found: CalibrationFeeds) -> VariantFile:
        """The file in int8 or fp8."""
        full = quantisable(self.model, precision)
        data, variant = quantise(
            full, precision, calibration, found, self.reference, self.psnr_min, self.report
        )
        return VariantFile(data, variant)

    def _with_faster(self, file: VariantFile) -> list[VariantFile]:
        if not self.timed:
            return [file]
        return with_faster(self.model, file, self.reference, self.timed, self.psnr_min, self.report)


def _reference(
    model: Model, judges: Sequence[Feeds], others: Sequence[str], report: Report
) -> Reference | None:
    """What a file makes of inputs; `None` where it does not run, which `others`, files to be compared, do not allow."""
    try:
        return reference_of(model, judges)
    except GantkError as error:
        if others:
            raise
        report(f"  not compared across backends: {error.what}")
        return None


def _is_plain(model: Model) -> bool:
    return (model.precision, model.form) == ("fp32", "plain")


def _manifest(writer: Writer, model: Model) -> Manifest:
    """What is known of a bundle that has nothing but the file."""
    ref = writer.add(f"model.{model.precision}.onnx", model.data)
    return Manifest(
        family=FOREIGN_FAMILY,
        name=as_printable(model.name),
        config=model.config,
        inputs=model.inputs,
        outputs=model.outputs,
        variants=(Variant(ref, model.precision, model.form, _opset(model.data)),),
        tools=tool_versions(traced=False),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _called(model: Model, variant: Variant) -> str:
    """What errors call a file of the bundle."""
    return model.where if variant.precision == model.precision else f"{model.where} in {variant.precision}"


def _refuse_judges(model: Model, psnr_min: float | None, calibration: Calibration) -> None:
    """Refuse what judges files where there are none to judge."""
    given = {"--psnr-min": psnr_min, "--calibrate": calibration.folder}
    unused = next((option for option, value in given.items() if value is not None), None)
    if unused is not None:
        raise UsageError(
            f"{unused} is for what is made of a file, and of `{model.where}` nothing is",
            where=unused,
            hint="--precision fp16",
        )


def _arrays(
    model: Model, others: Sequence[str], calibration: Calibration, sizes: Mapping[str, int]
) -> CalibrationFeeds | None:
    """What int8 and fp8 take their ranges from, and what judges all files; `None` where that is random."""
    first = next((precision for precision in others if precision in QUANTISED), None)
    if first is None and calibration.folder is None:
        return None
    found = array_feeds(model.inputs, calibration, sizes, first or model.precision)
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


def _check_backend(model: Model) -> None:
    """Refuse to make nothing but a bundle of a file that cannot be run."""
    if not verify.working_backends(model.precision):
        raise BackendMissingError(
            f"no backend works here to compare `{model.where}` with what is made of it",
            hint="pip install 'gantk[cpu]'; gantk doctor says more",
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

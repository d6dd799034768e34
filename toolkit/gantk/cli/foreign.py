# SPDX-License-Identifier: Apache-2.0
"""`gantk export` of an ONNX file from elsewhere, and what it refuses as it does for runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.cli.building import BuildBar
from gantk.cli.exported import manifest_of, tell
from gantk.cli.output import prose
from gantk.errors import UsageError

if TYPE_CHECKING:
    from gantk.export.calibration import Calibration
    from gantk.export.engines.pipeline import EngineRequest


def bundle_file_into(
    source: Path,
    output: Path | None,
    request: EngineRequest | None,
    precisions: Sequence[str],
    quantised: Mapping[str, Any],
    psnr_min: float | None,
    rewrites: bool,
    noise: str | None,
    force: bool,
    json: str | None,
) -> None:
    """Make a bundle of an ONNX file, with rewritten files, engines or files in other precisions, without PyTorch."""
    refuse_unquantised(
        {**quantised, "--calibrate": None}, precisions or ("fp32",)
    )  # Arrays judge files in any.
    from gantk.export.foreign.pipeline import bundle_onnx

    output = output or source.with_suffix(".gantk")
    before = manifest_of(output)
    with BuildBar() as bar:
        bundle = bundle_onnx(
            source,
            output,
            request,
            precisions=precisions,
            rewrites=rewrites,
            noise=noise,
            calibration=make_calibration(quantised),
            psnr_min=psnr_min,
            force=force,
            report=prose().print,
            progress=bar.show,
        )
    tell(prose(), bundle, json, before)


def make_calibration(given: Mapping[str, Any]) -> Calibration:
    """What was said of it, with the defaults of the help where nothing was."""
    from gantk.export.calibration import Calibration

    folder, count, method = (given[name] for name in ("--calibrate", "--calibrate-count", "--calibration"))
    return Calibration(folder, count or 32, method or "minmax")


def refuse_unquantised(quantised: Mapping[str, Any], precisions: Sequence[str]) -> None:
    if not set(precisions) & {"int8", "fp8"}:
        refuse_given(
            quantised,
            f"is for int8 and fp8, and asked for are {', '.join(precisions)}",
            hint=f"--precision {','.join(precisions)},int8",
        )


def refuse_given(options: Mapping[str, Any], why: str, hint: str | None = None) -> None:
    """Refuse options that would do nothing: what was not given is `None` or `False`."""
    given = next(
        (option for option, value in options.items() if value is not None and value is not False), None
    )
    if given is not None:
        raise UsageError(f"{given} {why}", where=given, hint=hint)

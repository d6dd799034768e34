# SPDX-License-Identifier: Apache-2.0
"""Whether an engine computes what it should: by its probe, at its build and at its first opening."""

from __future__ import annotations

import json
from contextlib import suppress

from gantk.bundle import Bundle, Parity
from gantk.errors import GantkError
from gantk.files import cache_folder, read_bytes, write_text
from gantk.runtime import parity
from gantk.runtime.engines import EngineFile
from gantk.runtime.probe import file_of, probe_of
from gantk.runtime.runner import Runner

VERDICTS = "verdicts"
"""The folder in the user's cache."""

VERDICT_LIMIT_BYTES = 2**16


def check_once(runner: Runner, file: EngineFile, bundle: Bundle, target: str) -> bool:
    """Compare an unverified engine with its probe, the first time that it is opened on a kind of GPU.

    The verdict by this probe, its own or else the bundle's, is remembered in the user's cache, where that can be
    written.

    Args:
        runner: That runs it.
        file: The engine.
        bundle: That holds the probe.
        target: The architecture of the GPU.

    Returns:
        Whether it is verified now; not so where the probe is for other inputs or none of its shapes is served.

    Raises:
        GantkError: Its outputs are wrong, here and now or when it was opened before.
    """
    engine = file.engine
    if engine.verified:
        return True
    ref = file_of(bundle, engine)
    if ref is None:
        return False
    name = f"{engine.file.sha256}-{ref.sha256}-{engine.version}-{target}.json"
    reason = _remembered(name)
    if reason is None:
        verdict = judge(runner, file, bundle)
        if verdict is None:
            return False
        reason = verdict.reason or ""
        with suppress(GantkError):  # Without it the next opening judges again.
            write_text(cache_folder() / VERDICTS / name, json.dumps({"passed": not reason, "reason": reason}))
    if reason:
        again = f"gantk export {bundle.root} --to {engine.backend} builds it again"
        raise wrong(file, target, reason, f"another backend may do; {again}")
    return True


def judge(runner: Runner, file: EngineFile, bundle: Bundle) -> Parity | None:
    """Compare an engine's outputs with its probe.

    Args:
        runner: That runs it.
        file: The engine.
        bundle: That holds the probe.

    Returns:
        The verdict by its worst output, or by the first that is wrong; `None` where there is no probe, or it is for
        other inputs, or none of its shapes is served.

    Raises:
        GantkError: It cannot be run, or the probe is missing or damaged.
    """
    probe = probe_of(bundle, file.engine)
    if probe is None:
        return None
    outputs, wanted = runner.run(probe.inputs), probe.outputs
    threshold = parity.threshold_of(file.engine.executed, bundle.manifest.family)
    found: list[tuple[str | None, parity.Difference]] = []
    for spec in file.interface.outputs:
        span = parity.span_of(wanted[spec.name], spec.range)
        difference = parity.compare([outputs[spec.name]], [wanted[spec.name]], span)
        reason = difference.against(threshold, span)
        found.append((reason and f"{spec.name}: {reason}", difference))
    by_decibels = sorted(found, key=lambda each: each[1].psnr_db or 0.0)
    reason, worst = next((each for each in found if each[0] is not None), by_decibels[0])
    return Parity(
        backend=runner.backend,
        version=runner.version,
        device=runner.device,
        executed=runner.precision,
        reference="probe",
        max_abs=worst.max_abs,
        psnr_db=worst.psnr_db,
        cosine=worst.cosine,
        samples=worst.samples,
        batches=(worst.samples,),
        passed=reason is None,
        reason=reason,
    )


def wrong(file: EngineFile, target: str, reason: str, hint: str | None = None) -> GantkError:
    """The error of an engine that does not compute what the probe has."""
    return GantkError(f"`{file.path}` computes wrong on {target}: {reason}", where=str(file.path), hint=hint)


def _remembered(name: str) -> str | None:
    """Why an engine failed when it was opened before; empty where it passed, `None` where it was never tried."""
    try:
        verdict = json.loads(read_bytes(cache_folder() / VERDICTS / name, VERDICT_LIMIT_BYTES))
        return "" if verdict["passed"] is True else str(verdict["reason"]) or None
    except (GantkError, ValueError, KeyError, TypeError, RecursionError):
        return None  # Whatever it is, trying again tells.

# SPDX-License-Identifier: Apache-2.0
"""The whole benchmark: find the contenders, run every case, and write down all that a reader must know."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from gantk.bench import machine, verdict
from gantk.bench.case import Result, Settings, Task, run_case
from gantk.bench.contender import Contender, Skipped
from gantk.bench.contenders import MODES, NAMES, TORCH_PRECISIONS, best_device, check_names, find
from gantk.bench.load import DISTURBED
from gantk.bench.measure import BLOCK_S, TARGET, Progress
from gantk.bench.reference import compute
from gantk.bench.stats import NOISY_CV
from gantk.bench.subject import Case, Shape, Subject, describe, fits_probe, make_cases, make_feeds
from gantk.bundle import ENGINE_PRECISIONS
from gantk.errors import GantkError, UsageError
from gantk.files import temporary_folder
from gantk.runtime.cores import core_count

SCHEMA_VERSION = 2
"""Since 2 rows have ``gpu_ms``, ``gpu_reason`` and ``reproduce``."""

KIND = "gantk bench"
BUDGET_S = 15.0
LOAD_TIMEOUT_S = 120.0

Document = dict[str, Any]


def compare(
    path: str | os.PathLike[str],
    *,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    torch_precisions: Sequence[str] | None = None,
    shapes: Sequence[tuple[str, Shape]] | None = None,
    batch: Sequence[int] | None = None,
    threads: int | None = None,
    device: str | None = None,
    budget_s: float = BUDGET_S,
    load_timeout_s: float = LOAD_TIMEOUT_S,
    seed: int = 0,
    progress: Progress | None = None,
    keep: Callable[[Document], None] | None = None,
) -> Document:
    """Measure every way to run a network here.

    Args:
        path: A bundle, or any ``.onnx`` file.
        backends: Only these, of `gantk.bench.contenders.NAMES`; by default all that work here.
        precisions: Only what computes in these; by default all that the files hold.
        modes: Only these of PyTorch's modes, of `gantk.bench.contenders.MODES`; by default all.
        torch_precisions: Only these of PyTorch's precisions, of `gantk.bench.contenders.TORCH_PRECISIONS`; by
            default all that `precisions` allows.
        shapes: Whole input shapes by name; a name may come several times, for several cases.
        batch: Batch sizes, a case each; 1 by default.
        threads: For one operation, the same for all; by default every core that this process may use.
        device: ``cpu`` or ``cuda``; by default the latter where a backend runs what there is on it.
        budget_s: Time to measure each case, without loading and compiling.
        load_timeout_s: For one contender to load and compile.
        seed: Of random inputs and of the rotation.
        progress: Told what goes on, a line at a time; lines to keep start with a space. It may be called from
            several threads.
        keep: Given the document after each case, so that what was measured outlives what comes after it.

    Returns:
        The JSON document: ``schema kind created commit model machine versions settings rows skipped
        recommendation warnings``.

    Raises:
        GantkError: The file is missing or damaged, or there is no contender.
        UsageError: An unknown backend, precision, mode or input, or a shape that does not fit.
        BackendMissingError: A backend that was asked for does not work here.
    """
    check_names("backend", backends, NAMES)
    check_names("precision", precisions, ENGINE_PRECISIONS)
    check_names("mode", modes, MODES)
    check_names("torch-precision", torch_precisions, TORCH_PRECISIONS)
    settings = _check_settings(device or "cpu", threads, budget_s, load_timeout_s, seed)
    subject = describe(Path(path))
    if device is None:
        settings = replace(settings, device=best_device(subject, backends))
    cases = make_cases(subject.inputs, batch, shapes or (), subject.following)
    contenders, skipped = find(
        subject, backends, precisions, settings.device, settings.threads, modes, torch_precisions
    )
    if not contenders:
        raise _nobody(subject, precisions, skipped)
    before = machine.describe()
    document = start_document(subject, before, settings, cases, skipped)
    if machine.busy(before):
        load = before["load_average"][0]
        document["warnings"].append(
            f"the machine was busy before the benchmark began: load average {load:.1f}"
        )
    with temporary_folder("bench") as folder:
        _run_cases(
            document,
            subject,
            cases,
            contenders,
            settings,
            folder,
            progress or (lambda _: None),
            keep or (lambda _: None),
        )
    return document


def _run_cases(
    document: Document,
    subject: Subject,
    cases: Sequence[Case],
    contenders: Sequence[Contender],
    settings: Settings,
    folder: Path,
    progress: Progress,
    keep: Callable[[Document], None],
) -> None:
    progress("computing the reference")
    feeds = []
    for index, case in enumerate(cases):
        feeds.append(folder / f"feeds-{index}.npz")
        arrays: dict[str, Any] = dict(make_feeds(subject.inputs, case, subject.probe, settings.seed))
        np.savez(feeds[-1], **arrays)
    reference, problems = compute(
        subject,
        cases,
        feeds,
        from_probe=[fits_probe(subject.inputs, case, subject.probe) for case in cases],
        folder=folder,
        threads=settings.threads,
        timeout_s=settings.load_timeout_s,
    )
    document["warnings"] += problems
    if reference.name.startswith("onnxruntime"):
        document["warnings"].append(
            "there is no PyTorch network to compare with: parity is against ONNX Runtime, whose own row cannot fail"
        )
    if reference.random is not None:
        document["warnings"].append(
            f"{reference.random!r} is random, another one in each run: parity cannot tell who is right"
        )
    for case, path, outputs in zip(cases, feeds, reference.outputs, strict=True):
        family = str(subject.about.get("family") or "")
        task = Task(case, path, outputs, reference.name, subject.outputs, folder, family)
        result = run_case(task, contenders, settings, len(document["rows"]), progress)
        _add_case(document, case.label, result)
        keep(document)


def _add_case(document: Document, label: str, result: Result) -> None:
    """Add what one case gave, ranked, with what is to be said of it."""
    verdict.rank(result.rows, result.blocks)
    document["rows"] += result.rows
    disturbed = result.interference > DISTURBED
    document["recommendation"] += verdict.recommend(result.rows, result.blocks, label, disturbed=disturbed)
    warnings = verdict.warnings(result.rows, result.rounds)
    if disturbed:
        warnings.append(
            f"other work took {result.interference:.0%} of the cores' time while this was measured; contenders "
            "whose threads wait for each other suffer most, so measure again"
        )
    document["warnings"] += [f"{label}: {line}" for line in warnings]
    document["interference"][label] = round(result.interference, 4)


def _check_settings(
    device: str, threads: int | None, budget_s: float, load_timeout_s: float, seed: int
) -> Settings:
    if device not in ("cpu", "cuda"):
        raise UsageError(f"{device!r} is not a device; known are cpu, cuda", where="--device")
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads; at least 1 is wanted", where="--threads")
    if budget_s <= 0 or load_timeout_s <= 0:
        raise UsageError("a budget and a time-out are more than 0 seconds", where="--budget")
    return Settings(device, threads or core_count(), budget_s, load_timeout_s, seed)


def start_document(
    subject: Subject,
    before: dict[str, Any],
    settings: Settings,
    cases: Sequence[Case],
    skipped: Sequence[Skipped],
) -> Document:
    """What a benchmark's JSON says before anything is measured."""
    return {
        "schema": SCHEMA_VERSION,
        "kind": KIND,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "model": subject.about,
        "machine": before,
        "versions": machine.versions(settings.device),
        "settings": {
            **settings.__dict__,
            "block_s": BLOCK_S,
            "target_half_width": TARGET,
            "noisy_cv": NOISY_CV,
            "cases": [case.label for case in cases],
        },
        "rows": [],
        "skipped": [{"name": skip.name, "reason": skip.reason} for skip in skipped],
        "recommendation": [],
        "interference": {},
        "warnings": [],
    }


def _nobody(subject: Subject, precisions: Sequence[str] | None, skipped: Sequence[Skipped]) -> GantkError:
    wanted = f" in {', '.join(precisions)}" if precisions else ""
    reasons = (
        "; ".join(f"{skip.name}: {skip.reason}" for skip in skipped) or "its files hold other precisions"
    )
    return GantkError(
        f"nothing here can run `{subject.path}`{wanted}: {reasons}",
        where=str(subject.path),
        hint=f"it has {', '.join(subject.precisions)}; leave --precision or --backend out, or ask gantk doctor",
    )

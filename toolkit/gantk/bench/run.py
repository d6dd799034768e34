# SPDX-License-Identifier: Apache-2.0
"""One benchmark: find the contenders, load each in its own process, measure, judge, and write it all down."""

from __future__ import annotations

import datetime
import os
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from gantk.bench import machine, verdict
from gantk.bench.contenders import Contender, Skipped, find
from gantk.bench.measure import BLOCK_S, TARGET, Lane, Progress, measure
from gantk.bench.process import Worker, WorkerError
from gantk.bench.reference import Reference, coarser, compute, judge, load_arrays
from gantk.bench.stats import NOISY_CV, Nanoseconds, summarise
from gantk.bench.subject import Case, Shape, Subject, describe, fits_probe, make_cases, make_feeds
from gantk.errors import GantkError, UsageError

SCHEMA_VERSION = 1
KIND = "gantk bench"
BUDGET_S = 20.0
LOAD_TIMEOUT_S = 120.0
SEED = 0


@dataclass(frozen=True)
class Settings:
    """How to measure; the same for every contender.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: For one operation.
        budget_s: Time to measure each case, without loading.
        load_timeout_s: For one contender to load, or to compile.
        seed: Of the inputs and of the rotation.
    """

    device: str
    threads: int
    budget_s: float
    load_timeout_s: float
    seed: int


@dataclass
class _Run:
    """What a benchmark gathers as it goes."""

    subject: Subject
    settings: Settings
    folder: Path
    progress: Progress
    rows: list[dict[str, Any]] = field(default_factory=list)
    recommendation: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def compare(
    path: str | os.PathLike[str],
    *,
    backends: Sequence[str] | None = None,
    precisions: Sequence[str] | None = None,
    shapes: Sequence[tuple[str, Shape]] | None = None,
    batch: Sequence[int] | None = None,
    threads: int | None = None,
    device: str = "cpu",
    budget_s: float = BUDGET_S,
    load_timeout_s: float = LOAD_TIMEOUT_S,
    seed: int = SEED,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure every way to run a network here.

    Args:
        path: A bundle, or any ``.onnx`` file.
        backends: Only these, of `gantk.bench.contenders.NAMES`; by default all that work here.
        precisions: Only what computes in these; by default all that the files hold.
        shapes: Whole input shapes by name; a name may come several times, for several cases.
        batch: Batch sizes, a case each; 1 by default.
        threads: For one operation, the same for all; by default every core that this process may use.
        device: ``cpu`` or ``cuda``.
        budget_s: Time to measure each case, without loading and compiling.
        load_timeout_s: For one contender to load and compile.
        seed: Of random inputs and of the rotation.
        progress: Told what goes on, a line at a time; lines to keep start with a space.

    Returns:
        The JSON document: ``schema kind created commit model machine versions settings rows skipped
        recommendation warnings``.

    Raises:
        GantkError: The file is missing or damaged, or there is no contender.
        UsageError: An unknown backend, precision or input, or a shape that does not fit.
        BackendMissingError: A backend that was asked for does not work here.
    """
    settings = _check_settings(device, threads, budget_s, load_timeout_s, seed)
    subject = describe(Path(path))
    cases = make_cases(subject.inputs, batch, shapes or ())
    contenders, skipped = find(subject, backends, precisions, device, settings.threads)
    if not contenders:
        raise _nobody(subject, precisions, skipped)
    report = progress or (lambda _: None)
    before = machine.describe()
    with tempfile.TemporaryDirectory(prefix="gantk-bench-") as folder:
        run = _Run(subject, settings, Path(folder), report)
        if machine.busy(before):
            run.warnings.append(f"the machine was busy before it began: load average {before['load_average'][0]:.1f}")
        _run_cases(run, cases, contenders)
    return _document(run, before, cases, skipped)


def _check_settings(device: str, threads: int | None, budget_s: float, load_timeout_s: float, seed: int) -> Settings:
    if device not in ("cpu", "cuda"):
        raise UsageError(f"{device!r} is not a device; known are cpu, cuda", where="--device")
    cores = len(os.sched_getaffinity(0))
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads; at least 1 is wanted", where="--threads")
    if budget_s <= 0 or load_timeout_s <= 0:
        raise UsageError("a budget and a time-out are more than 0 seconds", where="--budget")
    return Settings(device, threads or cores, budget_s, load_timeout_s, seed)


def _run_cases(run: _Run, cases: Sequence[Case], contenders: Sequence[Contender]) -> None:
    run.progress("computing the reference")
    feeds = []
    for index, case in enumerate(cases):
        feeds.append(run.folder / f"feeds-{index}.npz")
        np.savez(feeds[-1], **make_feeds(run.subject.inputs, case, run.subject.probe, run.settings.seed))
    reference, problems = compute(
        run.subject,
        cases,
        feeds,
        from_probe=[fits_probe(run.subject.inputs, case, run.subject.probe) for case in cases],
        folder=run.folder,
        threads=run.settings.threads,
        timeout_s=run.settings.load_timeout_s,
    )
    run.warnings += problems
    for index, case in enumerate(cases):
        _run_case(run, case, contenders, feeds[index], reference, index)


def _run_case(
    run: _Run, case: Case, contenders: Sequence[Contender], feeds: Path, reference: Reference, index: int
) -> None:
    blocks: dict[int, list[Nanoseconds]] = {}
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        lanes: dict[int, Lane] = {}
        for contender in contenders:
            row = _new_row(contender, case, len(run.rows) + len(rows))
            rows.append(row)
            run.progress(f"{case.label}: {'compiling' if contender.compiles else 'loading'} {contender.label}")
            worker = stack.enter_context(_start(run, contender))
            try:
                _load(run, worker, row, contender, feeds, reference, index)
                lanes[row["id"]] = Lane(contender.label, worker)
            except WorkerError as error:
                _fail(run, row, error.what)
                worker.close()
        rounds = measure(
            list(lanes.values()),
            run.settings.budget_s,
            seed=run.settings.seed + index,
            timeout_s=run.settings.load_timeout_s,
            progress=lambda line: run.progress(f"{case.label}: {line}"),
        )
        for row in rows:
            if row["id"] in lanes:
                blocks[row["id"]] = lanes[row["id"]].blocks
                _finish(run, row, lanes[row["id"]], case)
    verdict.rank(rows, blocks)
    run.rows += rows
    run.recommendation += verdict.recommend(rows, blocks, case.label)
    run.warnings += [f"{case.label}: {line}" for line in verdict.warnings(rows, rounds)]


def _start(run: _Run, contender: Contender) -> Worker:
    # Compiled kernels are not taken from an earlier run: the load time is that of a first start.
    cache = {"TORCHINDUCTOR_CACHE_DIR": str(run.folder / "inductor")} if contender.compiles else {}
    return Worker(contender.label, run.folder, run.settings.threads, cache)


def _load(
    run: _Run,
    worker: Worker,
    row: dict[str, Any],
    contender: Contender,
    feeds: Path,
    reference: Reference,
    index: int,
) -> None:
    """Load a contender, run it once, and judge what it computed."""
    timeout_s = run.settings.load_timeout_s
    imports = list(contender.imports)
    loaded = worker.ask(timeout_s, do="load", factory=contender.factory, options=contender.options, imports=imports)
    worker.ask(timeout_s, do="feed", path=str(feeds))
    target = run.folder / f"output-{row['id']}.npz"
    first_ms = worker.ask(timeout_s, do="output", path=str(target))["ns"] / 1e6
    outputs = load_arrays(target)
    target.unlink()
    row["precision"], row["version"] = loaded["precision"], loaded["version"]
    row["device"] = loaded["device"]
    row["load_ms"] = loaded["open_ms"] + first_ms
    row["load"] = {"import_ms": loaded["import_ms"], "open_ms": loaded["open_ms"], "first_call_ms": first_ms}
    row["memory_bytes"] = {
        "baseline_rss": loaded["baseline_rss_bytes"],
        "loaded_rss": worker.ask(timeout_s, do="memory")["rss_bytes"],
        "peak_rss": None,
    }
    precision = coarser(loaded["precision"], loaded["file_precision"])
    row["parity"] = judge(outputs, reference.outputs[index], run.subject.outputs, reference.name, precision)
    worker.pause()


def _finish(run: _Run, row: dict[str, Any], lane: Lane, case: Case) -> None:
    """Fill in a row from what was measured."""
    if lane.error is None:
        try:
            row["memory_bytes"]["peak_rss"] = lane.worker.ask(run.settings.load_timeout_s, do="memory")["peak_rss_bytes"]
        except WorkerError as error:
            lane.error = error.what
    if lane.error is not None or not lane.blocks:
        _fail(run, row, lane.error or "it was not measured")
        return
    latency = summarise(lane.blocks)
    row.update(
        status="ok",
        latency_ms=latency,
        iterations=sum(len(block) for block in lane.blocks),
        blocks=len(lane.blocks),
        block_p50_ms=[float(np.median(block)) / 1e6 for block in lane.blocks],
        throughput=1000.0 * case.batch / latency["p50"],
        noisy=latency["cv"] > NOISY_CV,
    )


def _fail(run: _Run, row: dict[str, Any], reason: str) -> None:
    row.update(status="failed", reason=reason)
    run.progress(f"  {row['label']} failed: {reason}")


def _new_row(contender: Contender, case: Case, number: int) -> dict[str, Any]:
    return {
        "id": number,
        "label": contender.label,
        "backend": contender.backend,
        "version": None,
        "device": None,
        "precision": contender.precision,
        "file_precision": contender.file_precision,
        "form": contender.form,
        "mode": contender.mode,
        "shape": {name: list(shape) for name, shape in case.shapes.items()},
        "batch": case.batch,
        "status": "failed",
        "reason": None,
        "rank": None,
        "best_mode": False,
        "speedup": None,
        "latency_ms": None,
        "iterations": 0,
        "blocks": 0,
        "block_p50_ms": [],
        "throughput": None,
        "noisy": None,
        "memory_bytes": None,
        "artefact_bytes": contender.artefact_bytes,
        "load_ms": None,
        "load": None,
        "parity": None,
    }


def _document(
    run: _Run, before: dict[str, Any], cases: Sequence[Case], skipped: Sequence[Skipped]
) -> dict[str, Any]:
    settings = run.settings
    return {
        "schema": SCHEMA_VERSION,
        "kind": KIND,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": machine.commit(),
        "model": run.subject.about,
        "machine": before,
        "versions": machine.versions(),
        "settings": {
            **settings.__dict__,
            "block_s": BLOCK_S,
            "target_half_width": TARGET,
            "noisy_cv": NOISY_CV,
            "cases": [case.label for case in cases],
        },
        "rows": run.rows,
        "skipped": [{"name": skip.name, "reason": skip.reason} for skip in skipped],
        "recommendation": run.recommendation,
        "warnings": run.warnings,
    }


def _nobody(subject: Subject, precisions: Sequence[str] | None, skipped: Sequence[Skipped]) -> GantkError:
    wanted = f" in {', '.join(precisions)}" if precisions else ""
    reasons = "; ".join(f"{skip.name}: {skip.reason}" for skip in skipped) or "its files hold other precisions"
    return GantkError(
        f"nothing here can run `{subject.path}`{wanted}: {reasons}",
        where=str(subject.path),
        hint=f"it has {', '.join(subject.precisions)}; leave --precision or --backend out, or ask gantk doctor",
    )



# SPDX-License-Identifier: Apache-2.0
"""One case of a benchmark: load every contender, judge it, measure it, and fill in its row."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np

from gantk.bench.contender import Contender
from gantk.bench.load import Interference
from gantk.bench.measure import BLOCK_S, MOST_CALLS, Lane, Progress, measure
from gantk.bench.process import Worker, WorkerError
from gantk.bench.reference import coarser, judge, load_arrays
from gantk.bench.stats import NOISY_CV, Nanoseconds, summarise
from gantk.bench.subject import Arrays, Case
from gantk.runtime.operators import OPERATORS, native_operators
from gantk.tensors import TensorSpec

Row = dict[str, Any]


@dataclass(frozen=True)
class Settings:
    """How to measure; the same for every contender.

    Args:
        device: ``cpu`` or ``cuda``.
        threads: For one operation.
        budget_s: Time to measure each case, without loading.
        load_timeout_s: For one contender to load, or to compile, or to answer at all.
        seed: Of the inputs and of the rotation.
    """

    device: str
    threads: int
    budget_s: float
    load_timeout_s: float
    seed: int


@dataclass(frozen=True)
class Task:
    """What every contender of a case is given, and judged by.

    Args:
        case: The shapes.
        feeds: The file of the inputs.
        reference: The right outputs.
        reference_name: Who computed them.
        outputs: The specs of the outputs.
        folder: For temporary files.
        family: Of the network, which outputs are judged by.
    """

    case: Case
    feeds: Path
    reference: Arrays
    reference_name: str
    outputs: Sequence[TensorSpec]
    folder: Path
    family: str = ""


@dataclass(frozen=True)
class Result:
    """What one case gave.

    Args:
        rows: One a contender, in their order.
        blocks: The durations of each row's blocks, by its id.
        rounds: How often each was measured.
        interference: The share of the machine's time that other work took meanwhile.
    """

    rows: list[Row]
    blocks: dict[int, list[Nanoseconds]]
    rounds: int
    interference: float


@dataclass
class _Entry:
    contender: Contender
    worker: Worker
    row: Row
    launches: bool = False


def run_case(
    task: Task, contenders: Sequence[Contender], settings: Settings, first_id: int, progress: Progress
) -> Result:
    """Run one case; a contender that fails becomes a row that says why, and the others go on."""
    with ExitStack() as stack:
        entries = []
        try:
            for number, contender in enumerate(contenders, start=first_id):
                worker = stack.enter_context(_start(task, contender, settings.threads))
                entries.append(_Entry(contender, worker, _new_row(contender, task.case, number)))
                if not _beside_others(contender, settings):
                    _load(task, entries[-1:], settings, progress)
            rest = [entry for entry in entries if _beside_others(entry.contender, settings)]
            _load(task, rest, settings, progress)
            return _measure(task, entries, settings, progress)
        except BaseException:
            for entry in entries:  # At once: threads may be waiting for them.
                entry.worker.kill()
            raise


def _beside_others(contender: Contender, settings: Settings) -> bool:
    """Whether a contender loads beside others: it compiles for seconds, or starts CUDA, whose libraries take them."""
    return contender.compiles or settings.device == "cuda"


def _start(task: Task, contender: Contender, threads: int) -> Worker:
    # No contender finds what an earlier one compiled or judged: a load time is that of a first start.
    environment = {"XDG_CACHE_HOME": tempfile.mkdtemp(prefix="cache-", dir=task.folder)}
    if contender.compiles:
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(task.folder / "inductor")
    if contender.compiles and contender.options.get("device") == "cuda":
        # By default each would start as many compiler processes as there are cores.
        environment["TORCHINDUCTOR_COMPILE_THREADS"] = "2"
    if contender.command:  # A program in C++ finds the operators by this variable alone.
        environment[OPERATORS] = str(native_operators(contender.options["device"]) or "")
    return Worker(contender.label, task.folder, threads, environment, contender.command)


def _load(task: Task, entries: Sequence[_Entry], settings: Settings, progress: Progress) -> None:
    """Load contenders, as many at once as there are threads."""
    at_once = min(len(entries), settings.threads)

    def load(entry: _Entry) -> None:
        doing = "compiling" if entry.contender.compiles else "loading"
        progress(f"{task.case.label}: {doing} {entry.contender.label}")
        try:
            _load_one(task, entry, settings.load_timeout_s)
            entry.row["load"]["at_once"] = at_once
            entry.worker.pause()
        except WorkerError as error:
            if not interrupted.is_set():
                _fail(entry.row, error.what, progress)

    interrupted = Event()
    if at_once < 2:
        for entry in entries:
            load(entry)
    else:
        pool = ThreadPoolExecutor(at_once)
        try:
            list(pool.map(load, entries))
        except BaseException:
            interrupted.set()
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _load_one(task: Task, entry: _Entry, timeout_s: float) -> None:
    """Load a contender, run it once, and judge what it computed."""
    contender, worker, row = entry.contender, entry.worker, entry.row
    imports = list(contender.imports)
    loaded = worker.ask(
        timeout_s, do="load", factory=contender.factory, options=contender.options, imports=imports
    )
    bound = worker.ask(timeout_s, do="feed", path=str(task.feeds))  # A GPU's first run may be in there.
    target = task.folder / f"output-{row['id']}.npz"
    made = worker.ask(timeout_s, do="output", path=str(target))
    first_ms = (bound.get("ns", 0) + made["ns"]) / 1e6
    outputs = load_arrays(target)
    target.unlink()
    precision = coarser(loaded["precision"], loaded["file_precision"])
    unbound = bound.get("unbound")
    entry.launches = loaded.get("launches", False) and unbound is None
    if unbound is not None:
        row["gpu_reason"] = f"{unbound}; what is timed is a run with its copies"
        row["reproduce"] = None
    row.update(
        label=replace(contender, precision=loaded["precision"]).label,
        precision=loaded["precision"],
        version=loaded["version"],
        device=loaded["device"],
        load_ms=loaded["open_ms"] + first_ms,
        load={"import_ms": loaded["import_ms"], "open_ms": loaded["open_ms"], "first_call_ms": first_ms},
        graph=made.get("graph"),
        memory_bytes={
            "baseline_rss": loaded["baseline_rss_bytes"],
            "loaded_rss": worker.ask(timeout_s, do="memory")["rss_bytes"],
            "peak_rss": None,
            "gpu": None,
        },
        parity=judge(
            outputs, task.reference, task.outputs, task.reference_name, precision, family=task.family
        ),
    )


def _measure(task: Task, entries: Sequence[_Entry], settings: Settings, progress: Progress) -> Result:
    lanes = {
        entry.row["id"]: Lane(entry.contender.label, entry.worker)
        for entry in entries
        if entry.row["reason"] is None
    }
    watch = Interference([lane.worker.pid for lane in lanes.values()])
    rounds = measure(
        list(lanes.values()),
        settings.budget_s,
        seed=settings.seed,
        timeout_s=settings.load_timeout_s,
        progress=lambda line: progress(f"{task.case.label}: {line}"),
    )
    others = watch.share()
    for entry in entries:
        if entry.row["id"] in lanes:
            _finish(entry, lanes[entry.row["id"]], task.case.batch, settings.load_timeout_s, progress)
    blocks = {number: lane.blocks for number, lane in lanes.items()}
    return Result([entry.row for entry in entries], blocks, rounds, others)


def _finish(entry: _Entry, lane: Lane, batch: int, timeout_s: float, progress: Progress) -> None:
    """Fill in a row from what was measured."""
    row = entry.row
    try:
        held = lane.worker.ask(timeout_s, do="memory") if lane.error is None else {}
        if entry.launches and lane.error is None:
            _time_parts(row, lane.worker, timeout_s)
        lane.worker.pause()
    except WorkerError as error:
        lane.error = error.what
    if lane.error is not None or not lane.blocks:
        _fail(row, lane.error or "it was not measured", progress)
        return
    row["memory_bytes"].update(peak_rss=held["peak_rss_bytes"], gpu=held.get("gpu_bytes"))
    latency = summarise(lane.blocks)
    row.update(
        status="ok",
        latency_ms=latency,
        iterations=sum(len(block) for block in lane.blocks),
        blocks=len(lane.blocks),
        block_p50_ms=[float(np.median(block)) / 1e6 for block in lane.blocks],
        throughput=1000.0 * batch / latency["p50"],
        noisy=latency["cv"] > NOISY_CV,
    )


def _time_parts(row: Row, worker: Worker, timeout_s: float) -> None:
    """Fill in where the time of a call goes on the GPU; what that takes beside the call may not be there."""
    try:
        times = worker.ask(timeout_s, do="parts", block_s=BLOCK_S, most=MOST_CALLS)
    except WorkerError as error:
        row["gpu_reason"] = error.what
        return
    calls = len(times["device"])
    row["gpu_ms"] = {**{name: float(np.median(found)) for name, found in times.items()}, "calls": calls}


def _fail(row: Row, reason: str, progress: Progress) -> None:
    row["reason"] = reason  # It is called failed until it has been measured.
    progress(f"  {row['label']} failed: {reason}")


def _new_row(contender: Contender, case: Case, number: int) -> Row:
    nothing = ("version", "device", "reason", "rank", "speedup", "latency_ms", "throughput", "noisy")
    tool = contender.tool
    return {
        "id": number,
        "label": contender.label,
        "backend": contender.backend,
        "precision": contender.precision,
        "file_precision": contender.file_precision,
        "form": contender.form,
        "mode": contender.mode,
        "shape": {name: list(shape) for name, shape in case.shapes.items()},
        "batch": case.batch,
        "status": "failed",
        "best_mode": False,
        **dict.fromkeys(nothing),
        "iterations": 0,
        "blocks": 0,
        "block_p50_ms": [],
        "memory_bytes": None,
        "artefact_bytes": contender.artefact_bytes,
        "load_ms": None,
        "load": None,
        "parity": None,
        "graph": None,
        "gpu_ms": None,
        "gpu_reason": None,
        "reproduce": None if tool is None else tool.command(case.shapes),
    }

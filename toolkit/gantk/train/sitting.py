# SPDX-License-Identifier: Apache-2.0
"""A training from its first step or its newest checkpoint to its end or a signal, of whatever kind it is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any, TypeVar

import torch

from gantk.checkpoint import RUN_FILE
from gantk.data import Batches, Pictures, find_source, load
from gantk.errors import GantkError, UsageError
from gantk.options import option_of
from gantk.train import run_folder
from gantk.train.interrupt import Interruption
from gantk.train.launch import is_first, launch
from gantk.train.log import check_tensorboard
from gantk.train.memory import named_exhaustion
from gantk.train.options import RunConfig
from gantk.train.reporter import Reporter
from gantk.train.session import Session, gather_all
from gantk.train.training import Training

C = TypeVar("C", bound=RunConfig)


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Args:
        run: The run folder.
        step: Steps done, those of earlier sittings too.
        epoch: Whole epochs done.
        interrupted: Whether a signal ended it before its last step.
        seconds: How long the loop ran, with samples, curves and checkpoints.
        samples_per_second: Pictures of the data a second in the loop, over all processes, without those.
        warnings: What was wrong at the end, in words.
        metrics: The last line of ``metrics.jsonl`` on steps.
    """

    run: Path
    step: int
    epoch: int
    interrupted: bool
    seconds: float
    samples_per_second: float
    warnings: tuple[str, ...]
    metrics: dict[str, Any]


def begin(
    kind: type[Training[C]], config: C, *, force: bool = False, reporter: Reporter | None = None
) -> TrainResult:
    """Begin a run.

    Args:
        kind: What to train.
        config: On what, and how.
        force: Whether a run that is in ``config.out`` already may be replaced.
        reporter: Told of the progress.

    Raises:
        UsageError: A value is not allowed on this machine.
        GantkError: The pictures or another file cannot be read, the folder is taken or cannot be written, the
            memory is full, or the training diverged.
    """
    reporter = reporter if reporter and is_first() else Reporter()
    config = kind.resolve(config, reporter)
    if config.tensorboard:
        check_tensorboard()
    if is_first():  # Others may come when it has begun to write.
        hint = "--resume goes on with it; --force replaces it"
        run_folder.check_free(Path(config.out), force=force, hint=hint)
    return launch(_sit, config, kind, False, reporter)


def resume(
    kind: type[Training[C]],
    run: Path,
    changes: Mapping[str, Any] | None = None,
    *,
    reporter: Reporter | None = None,
) -> TrainResult:
    """Go on with a run from its newest whole checkpoint.

    Args:
        kind: What the run trains.
        run: The run folder.
        changes: New values of fields in the configuration's `changeable`, e.g. more epochs.
        reporter: Told of the progress.

    Raises:
        UsageError: Another field is to be changed.
        GantkError: There is no run, or one of another kind, or its pictures are others now; and as `begin`.
    """
    record = run_folder.read(run)
    _check_kind(kind.kind, record.get("kind", "dcgan"), run)
    before = _read_config(kind, record["config"], run)
    changes = {name: value for name, value in (changes or {}).items() if value != getattr(before, name)}
    if "epochs" in changes:
        changes.setdefault("steps", None)
    for name, value in changes.items():
        if name not in kind.config_type.changeable:
            raise UsageError(
                f"the run has {name} {getattr(before, name)} and cannot go on with {value}",
                where=str(run),
                hint="leave the option out, or begin a new run with another --out",
            )
    reporter = reporter if reporter and is_first() else Reporter()
    config = replace(before, **{**changes, "out": str(run)})
    _check_paths(config, run)
    config = kind.resolve(config, reporter)
    if config.tensorboard:
        check_tensorboard()
    return launch(_sit, config, kind, True, reporter)


def _read_config(kind: type[Training[Any]], config: dict[str, Any], run: Path) -> Any:
    try:
        return kind.config_type.from_json(config)
    except UsageError as error:
        path = run / RUN_FILE
        raise GantkError(
            f"`{path}` cannot be understood: {error.what}", where=str(path), hint=error.hint
        ) from error


def _check_paths(config: RunConfig, run: Path) -> None:
    """Refuse to go on where what a run learned from lies elsewhere now, or was named from another folder."""
    for name in ("data", "styles", "vgg"):
        value = getattr(config, name, None) or ()
        option = "--style" if isinstance(value, tuple) else option_of(name)
        for path in (value,) if isinstance(value, str) else value:
            if not Path(path).exists():
                raise GantkError(
                    f"the run has {name} `{path}`, which does not exist from here",
                    where=str(run),
                    hint=f"{option} says where it is now; what is there must be what the run began with",
                )


def _check_kind(wanted: str, found: str, run: Path) -> None:
    if found == "import":
        raise GantkError(
            f"`{run}` was imported: it holds a network alone, and nothing to train it on with",
            where=str(run),
            hint=f"gantk train {wanted} with another --out begins a run",
        )
    if found != wanted:
        raise GantkError(
            f"`{run}` is a run of `gantk train {found}`, not of `gantk train {wanted}`",
            where=str(run),
            hint=f"gantk train {found} --resume --out {quote(str(run))}",
        )


def _sit(fabric: Any, config: C, kind: type[Training[C]], resumed: bool, reporter: Reporter) -> TrainResult:
    """One process's part of a training."""
    run, main = Path(config.out), fabric.is_global_zero
    if not main:
        reporter = Reporter()
    try:
        with run_folder.locked(run) if main else nullcontext(), named_exhaustion(kind.smaller):
            pictures, config, per_epoch = _load(fabric, config, reporter)
            training = kind(fabric, config, pictures)
            data = {"pictures": len(pictures), "fingerprint": pictures.fingerprint()}
            facts = {"data": data, **training.facts()}
            session = Session(training, reporter)
            if resumed:
                session.restore(facts)
            if main:
                write = run_folder.write if resumed else run_folder.start
                write(run, kind.kind, config.to_json(), facts)
            session.open()
            batches = Batches(
                pictures.array,
                config.batch,
                seed=config.seed + fabric.global_rank,
                flip=config.flip,
                crop=config.crop,
                per_epoch=per_epoch,
                pin=fabric.device.type == "cuda",
            )
            with batches:
                return _loop(session, batches)
    finally:
        reporter.close()


def _loop(session: Session, batches: Batches) -> TrainResult:
    """Train until the last step or a signal, from where the session's state stands."""
    training, state, config = session.training, session.state, session.config
    per_epoch, total = batches.per_epoch, config.total_steps(batches.per_epoch)
    training.set_up()
    began_s, first_step, interrupted = time.perf_counter(), state.step, False

    with Interruption() as interruption:
        while state.step < total and not interrupted:
            step_s = time.perf_counter()
            batch = batches.get(state.step)
            wait_s = time.perf_counter() - step_s
            measured = training.step(batch, total)
            state.average.update(state.generator, state.step)
            state.step += 1
            session.window.add(wait_s, measured)
            interrupted = session.any(interruption.requested)
            session.after_step(per_epoch, total, last=interrupted or state.step == total)

    seconds = time.perf_counter() - began_s
    session.close()
    pictures = config.batch * session.fabric.world_size * (state.step - first_step)
    return TrainResult(
        run=Path(config.out),
        step=state.step,
        epoch=state.step // per_epoch,
        interrupted=interrupted and state.step < total,
        seconds=seconds,
        samples_per_second=pictures / max(seconds - session.saving_s, 1e-9),
        warnings=session.warnings(),
        metrics=session.latest(),
    )


def _load(fabric: Any, config: C, reporter: Reporter) -> tuple[Pictures, C, int]:
    """This process's pictures, the configuration with a batch that they fill, and the batches in an epoch."""
    size, channels = config.decoded
    pictures = load(
        find_source(config.data),
        size,
        channels,
        rank=fabric.global_rank,
        world=fabric.world_size,
        threads=config.threads,
        progress=reporter.loading,
    )
    counts = gather_all(fabric, torch.tensor([len(pictures), len(pictures.skipped)]))
    fewest, skipped = int(counts[:, 0].min()), int(counts[:, 1].sum())
    if skipped:
        named = pictures.skipped[:5]  # Of this process.
        files = "; ".join(f"`{path}`: {reason}" for path, reason in named)
        more = "; ..." * (skipped > len(named))
        reporter.say(f"skipped {skipped} unreadable file{'s' * (skipped > 1)}: {files}{more}")
    least = int(config.limits["batch"][0])
    if fewest < least:
        raise GantkError(
            f"`{config.data}` has {fewest} readable picture{'s' * (fewest != 1)}"
            f"{' for each process' if fabric.world_size > 1 else ''}; at least {least} are wanted",
            where=config.data,
            hint="networks of this kind want some hundreds of pictures at least",
        )
    if fewest < config.batch:
        reporter.say(f"the batch is {fewest} instead of {config.batch}: there are no more pictures")
        config = replace(config, batch=fewest)
    return pictures, config, fewest // config.batch

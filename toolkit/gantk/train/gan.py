# SPDX-License-Identifier: Apache-2.0
"""Two networks trained against each other, in a loop that reads top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk import checkpoint
from gantk.data import Batches, Pictures, find_source, load
from gantk.data.batches import normalise
from gantk.errors import GantkError, UsageError
from gantk.train import health, run_folder
from gantk.train import state as states
from gantk.train.config import CHANGEABLE, TrainConfig, resolve
from gantk.train.interrupt import Interruption
from gantk.train.launch import launch
from gantk.train.log import Log, Window, check_finite, check_tensorboard
from gantk.train.reporter import Reporter
from gantk.train.samples import Showroom
from gantk.train.state import State


@dataclass(frozen=True)
class TrainResult:
    """How a training ended.

    Args:
        run: The run folder.
        step: Steps done, those of earlier sittings too.
        epoch: Whole epochs done.
        interrupted: Whether a signal ended it before its last step.
        seconds: How long the loop ran, with samples, curves and checkpoints.
        samples_per_second: Real pictures a second in the loop, over all processes, without those.
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


def train(config: TrainConfig, *, force: bool = False, reporter: Reporter | None = None) -> TrainResult:
    """Begin a run.

    Args:
        config: What to train on what.
        force: Whether a run that is in ``config.out`` already may be replaced.
        reporter: Told of the progress.

    Raises:
        UsageError: A value is not allowed on this machine.
        GantkError: The pictures cannot be read, the folder is taken or cannot be written, or the training diverged.
    """
    config = resolve(config, find_source(config.data))
    if config.tensorboard:
        check_tensorboard()
    run_folder.check_free(Path(config.out), force=force)
    return launch(_train, config, False, reporter or Reporter())


def resume(
    run: Path, changes: Mapping[str, Any] | None = None, *, reporter: Reporter | None = None
) -> TrainResult:
    """Go on with a run from its newest whole checkpoint.

    Args:
        run: The run folder.
        changes: New values of fields in `gantk.train.config.CHANGEABLE`, e.g. more epochs.
        reporter: Told of the progress.

    Raises:
        UsageError: Another field is to be changed.
        GantkError: There is no run, or its pictures are others now; and as `train`.
    """
    before = TrainConfig.from_json(run_folder.read(run)["config"])
    changes = {name: value for name, value in (changes or {}).items() if value != getattr(before, name)}
    if "epochs" in changes:
        changes.setdefault("steps", None)
    for name, value in changes.items():
        if name not in CHANGEABLE:
            raise UsageError(
                f"the run has {name} {getattr(before, name)} and cannot go on with {value}",
                where=str(run),
                hint="leave the option out, or begin a new run with another --out",
            )
    config = replace(before, **{**changes, "out": str(run)})
    config = resolve(config, find_source(config.data))
    if config.tensorboard:
        check_tensorboard()
    return launch(_train, config, True, reporter or Reporter())


def _train(fabric: Any, config: TrainConfig, resumed: bool, reporter: Reporter) -> TrainResult:
    """One process's part of a training."""
    run, main = Path(config.out), fabric.is_global_zero
    if not main:
        reporter = Reporter()
    try:
        with run_folder.locked(run) if main else nullcontext():
            pictures, config, per_epoch = _load(fabric, config, reporter)
            state = states.build(config, fabric.device, fabric.global_rank)
            if resumed:
                _restore(fabric, state, run, pictures, reporter)
            facts = {"data": {"pictures": len(pictures), "fingerprint": pictures.fingerprint()}}
            if main:
                (run_folder.write if resumed else run_folder.start)(run, config.to_json(), facts)
            batches = Batches(
                pictures.array,
                config.batch,
                seed=config.seed + fabric.global_rank,
                flip=config.flip,
                per_epoch=per_epoch,
                pin=fabric.device.type == "cuda",
            )
            with batches:
                return loop(fabric, config, state, batches, pictures, reporter)
    finally:
        reporter.close()


def loop(
    fabric: Any, config: TrainConfig, state: State, batches: Batches, pictures: Pictures, reporter: Reporter
) -> TrainResult:
    """Train until the last step or a signal, from where `state` stands."""
    run, main = Path(config.out), fabric.is_global_zero
    per_epoch, total = batches.per_epoch, config.steps or config.epochs * batches.per_epoch
    sample_every = config.sample_every or math.ceil(25 / per_epoch)
    generator, optimizer_g = fabric.setup(state.generator, state.optimizer_generator)
    discriminator, optimizer_d = fabric.setup(state.discriminator, state.optimizer_discriminator)
    log = Log(run, state.step, tensorboard=config.tensorboard) if main else None
    showroom = Showroom(run, config, pictures, fabric.device) if main else None
    real_label = torch.full((config.batch,), 1.0 - config.label_smoothing, device=fabric.device)
    ones, zeros = torch.ones_like(real_label), torch.zeros_like(real_label)
    began_s, window, trained_s, begin_step = time.perf_counter(), Window(), 0.0, state.step
    interrupted = False

    with Interruption() as interruption:
        while state.step < total and not interrupted:
            step_s = time.perf_counter()
            gathered = batches.get(state.step)
            wait_s = time.perf_counter() - step_s
            real = normalise(gathered, fabric.device)
            latents = torch.randn(
                config.batch, config.latent_size, generator=state.latents, device=fabric.device
            )
            fakes = generator(latents)

            # Phase 1: the discriminator learns to tell real pictures from detached samples.
            real_logits, fake_logits = discriminator(real), discriminator(fakes.detach())
            loss_d = (_loss(real_logits, real_label) + _loss(fake_logits, zeros)) / 2
            skipped = (
                config.skip_d_below > 0 and float(fabric.all_reduce(loss_d.detach())) < config.skip_d_below
            )
            if not skipped:
                optimizer_d.zero_grad()
                fabric.backward(loss_d)
                optimizer_d.step()

            # Phase 2: the generator learns to pass its samples off as real ones to the frozen discriminator.
            with _frozen(state.discriminator), fabric.autocast():
                loss_g = _loss(state.discriminator(fakes), ones)
            optimizer_g.zero_grad()
            fabric.backward(loss_g)
            optimizer_g.step()

            state.average.update(state.generator, state.step)
            state.step += 1
            window.add(wait_s, _measure(loss_d, loss_g, real_logits, fake_logits, skipped))
            trained_s += time.perf_counter() - step_s
            interrupted = _any(fabric, interruption.requested)

            epoch, within = divmod(state.step, per_epoch)
            last = interrupted or state.step == total
            snapshot = state.step == total or (within == 0 and epoch % sample_every == 0)
            save = last or snapshot or (config.checkpoint_every and state.step % config.checkpoint_every == 0)
            if save or window.steps >= config.log_every:
                record = _close(
                    fabric, window, config.batch, state.step, (state.step - 1) // per_epoch + 1, run
                )
                window = Window()
                if log is not None:
                    log.add(record)
            if main:
                reporter.step(state.step, total, log.history[-1] if log is not None and log.history else {})
            if save:
                _save(fabric, state, config, epoch, showroom, log if snapshot else None, reporter)
                window = Window()

    seconds = time.perf_counter() - began_s
    if log is not None:
        log.close()
    return TrainResult(
        run=run,
        step=state.step,
        epoch=state.step // per_epoch,
        interrupted=interrupted and state.step < total,
        seconds=seconds,
        samples_per_second=config.batch
        * fabric.world_size
        * (state.step - begin_step)
        / max(trained_s, 1e-9),
        warnings=tuple(health.warnings(log.history).values()) if log is not None else (),
        metrics=next((line for line in reversed(log.history) if line["event"] == "step"), {}) if log else {},
    )


def _load(fabric: Any, config: TrainConfig, reporter: Reporter) -> tuple[Pictures, TrainConfig, int]:
    """This process's pictures, the configuration with a batch that they fill, and the batches in an epoch."""
    assert config.size is not None and config.channels is not None
    pictures = load(
        find_source(config.data),
        config.size,
        config.channels,
        rank=fabric.global_rank,
        world=fabric.world_size,
        threads=config.threads,
        progress=reporter.loading,
    )
    counts = _gather(fabric, torch.tensor([len(pictures), len(pictures.skipped)]))
    fewest, skipped = int(counts[:, 0].min()), int(counts[:, 1].sum())
    if skipped:
        files = "; ".join(f"`{path}`: {reason}" for path, reason in pictures.skipped[:5])
        reporter.say(
            f"skipped {skipped} unreadable file{'s' * (skipped > 1)}: {files}{'; ...' * (skipped > 5)}"
        )
    if fewest < 2:
        raise GantkError(
            f"`{config.data}` has {fewest} readable picture{'s' * (fewest != 1)}"
            f"{' for each process' if fabric.world_size > 1 else ''}; at least 2 are wanted",
            where=config.data,
            hint="networks of this kind want some hundreds of pictures at least",
        )
    if fewest < config.batch:
        reporter.say(f"the batch is {fewest} instead of {config.batch}: there are no more pictures")
        config = replace(config, batch=fewest)
    return pictures, config, fewest // config.batch


def _restore(fabric: Any, state: State, run: Path, pictures: Pictures, reporter: Reporter) -> None:
    """Bring `state` to the newest whole checkpoint, or leave it at the beginning where there is none yet."""
    known = run_folder.read(run).get("data", {}).get("fingerprint")
    if fabric.is_global_zero and known != pictures.fingerprint():
        raise GantkError(
            "the pictures are not those that the run began with",
            where=str(run),
            hint="begin a new run with another --out",
        )
    if not checkpoint.list_paths(run):
        reporter.say("the run has no checkpoint yet: it begins anew")
        return
    saved, path, problems = checkpoint.read_newest(run)
    for problem in problems:
        reporter.warn(f"skipped a checkpoint: {problem.what}")
        if fabric.is_global_zero:
            Path(str(problem.where)).unlink(missing_ok=True)
    states.restore(state, saved, path, fabric.global_rank)
    _set_scaler(fabric, saved.state.get("scaler"))
    reporter.say(f"resumed from {path.name}")


def _loss(logits: Tensor, labels: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logits.float(), labels)


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Without gradients for the module's own weights; those with respect to its input still flow."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


@torch.no_grad()
def _measure(
    loss_d: Tensor, loss_g: Tensor, real_logits: Tensor, fake_logits: Tensor, skipped: bool
) -> dict[str, Tensor]:
    right = (real_logits > 0).float().mean() + (fake_logits < 0).float().mean()
    return {
        "loss_d": loss_d,
        "loss_g": loss_g,
        "d_real": real_logits.sigmoid().mean(),
        "d_fake": fake_logits.sigmoid().mean(),
        "d_accuracy": right / 2,
        "skipped": torch.full_like(loss_d, float(skipped)),
    }


def _close(fabric: Any, window: Window, batch: int, step: int, epoch: int, run: Path) -> dict[str, Any]:
    """The window's line for the log; every process stops where it is not finite in one."""
    record = {"event": "step", "step": step, "epoch": epoch, **window.close(batch * fabric.world_size)}
    if fabric.world_size > 1:
        names = ("loss_d", "loss_g", "d_real", "d_fake", "d_accuracy", "skipped")
        means = fabric.all_reduce(torch.tensor([record[name] for name in names], dtype=torch.float64))
        record |= {name: round(float(mean), 6) for name, mean in zip(names, means, strict=True)}
    check_finite(record, run)
    return record


def _save(
    fabric: Any,
    state: State,
    config: TrainConfig,
    epoch: int,
    showroom: Any,
    log: Log | None,
    reporter: Reporter,
) -> None:
    """Write a checkpoint; with a `log` also samples, curves, and what is wrong in words."""
    run = Path(config.out)
    rngs = [
        {name: tensor[rank].to(torch.uint8) for name, tensor in gathered.items()}
        for gathered in [{name: _gather(fabric, tensor) for name, tensor in states.rng_states(state).items()}]
        for rank in range(fabric.world_size)
    ]
    if showroom is None:
        return
    showroom.settle(state.average)
    if log is not None:
        before = health.warnings(log.history)
        showroom.show(state.average, log, state.step, epoch, reporter)
        for name, sentence in health.warnings(log.history).items():
            if name not in before:
                reporter.warn(sentence)
    states.save(checkpoint.path_of(run, state.step), state, config, epoch, rngs, _scaler(fabric))
    run_folder.drop_old_checkpoints(run, config.keep)


def _gather(fabric: Any, tensor: Tensor) -> Tensor:
    """The tensors of all processes, stacked on the CPU in the order of their ranks."""
    if fabric.world_size == 1:
        return tensor[None]
    gathered: Tensor = fabric.all_gather(tensor.to(fabric.device)).cpu()
    return gathered


def _any(fabric: Any, flag: bool) -> bool:
    if fabric.world_size == 1:
        return flag
    return bool(fabric.all_reduce(torch.tensor(float(flag), device=fabric.device), reduce_op="sum") > 0)


def _scaler(fabric: Any) -> dict[str, Any] | None:
    """fp16's loss scale, which Fabric keeps in its precision plugin."""
    return fabric.strategy.precision.state_dict() or None


def _set_scaler(fabric: Any, scaler: dict[str, Any] | None) -> None:
    if scaler:
        fabric.strategy.precision.load_state_dict(scaler)

# SPDX-License-Identifier: Apache-2.0
"""Two networks trained against each other, in a loop that reads top to bottom."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk.data import Batches, Pictures, find_source, load
from gantk.data.batches import normalise
from gantk.errors import GantkError, UsageError
from gantk.train import run_folder
from gantk.train import state as states
from gantk.train.config import CHANGEABLE, TrainConfig, resolve
from gantk.train.interrupt import Interruption
from gantk.train.launch import launch
from gantk.train.log import check_tensorboard
from gantk.train.reporter import Reporter
from gantk.train.session import Session, gather_all
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
        GantkError: The pictures cannot be read, the folder is taken or cannot be written, or the training
            diverged.
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
            facts = {"data": {"pictures": len(pictures), "fingerprint": pictures.fingerprint()}}
            state = states.build(config, fabric.device, fabric.global_rank)
            session = Session(fabric, config, state, reporter)
            if resumed:
                session.restore(facts)
            if main:
                (run_folder.write if resumed else run_folder.start)(run, "dcgan", config.to_json(), facts)
            session.open(pictures)
            batches = Batches(
                pictures.array,
                config.batch,
                seed=config.seed + fabric.global_rank,
                flip=config.flip,
                per_epoch=per_epoch,
                pin=fabric.device.type == "cuda",
            )
            with batches:
                return loop(session, batches)
    finally:
        reporter.close()


def loop(session: Session, batches: Batches) -> TrainResult:
    """Train until the last step or a signal, from where the session's state stands."""
    fabric, config, state, device = session.fabric, session.config, session.state, session.fabric.device
    per_epoch, total = batches.per_epoch, config.steps or config.epochs * batches.per_epoch
    generator, optimizer_g = fabric.setup(state.generator, state.optimizer_generator)
    discriminator, optimizer_d = fabric.setup(state.discriminator, state.optimizer_discriminator)
    ones, zeros = torch.ones(config.batch, device=device), torch.zeros(config.batch, device=device)
    real_labels = ones - config.label_smoothing
    began_s, first_step, trained_s, interrupted = time.perf_counter(), state.step, 0.0, False

    with Interruption() as interruption:
        while state.step < total and not interrupted:
            step_s = time.perf_counter()
            gathered = batches.get(state.step)
            wait_s = time.perf_counter() - step_s
            real = normalise(gathered, device)
            latents = torch.randn(config.batch, config.latent_size, generator=state.latents, device=device)
            fakes = generator(latents)

            _set_rates(state, config, total)

            # Phase 1: the discriminator learns to tell real pictures from detached samples.
            real_logits, fake_logits = discriminator(real), discriminator(fakes.detach())
            loss_d = (_loss(real_logits, real_labels) + _loss(fake_logits, zeros)) / 2
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
            session.window.add(wait_s, _measure(loss_d, loss_g, real_logits, fake_logits, skipped))
            trained_s += time.perf_counter() - step_s
            interrupted = session.any(interruption.requested)
            session.after_step(per_epoch, total, last=interrupted or state.step == total)

    session.close()
    return TrainResult(
        run=Path(config.out),
        step=state.step,
        epoch=state.step // per_epoch,
        interrupted=interrupted and state.step < total,
        seconds=time.perf_counter() - began_s,
        samples_per_second=config.batch
        * fabric.world_size
        * (state.step - first_step)
        / max(trained_s, 1e-9),
        warnings=session.warnings(),
        metrics=session.latest(),
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
    counts = gather_all(fabric, torch.tensor([len(pictures), len(pictures.skipped)]))
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


def _set_rates(state: State, config: TrainConfig, total: int) -> None:
    """Set the learning rates of a step: constant, or falling to zero over the second half."""
    share = min(1.0, 2 * (1 - state.step / total)) if config.anneal else 1.0
    for optimizer, rate in (
        (state.optimizer_generator, config.lr_g),
        (state.optimizer_discriminator, config.lr_d),
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate * share


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

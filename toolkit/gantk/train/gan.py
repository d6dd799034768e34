# SPDX-License-Identifier: Apache-2.0
"""Two networks trained against each other, in a step that reads top to bottom."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk import models
from gantk.data import Batch, Pictures, Source, find_source, read_labels
from gantk.data.batches import normalise
from gantk.train import health, sitting
from gantk.train.augment import AUTO, NONE, augment, parse
from gantk.train.config import TrainConfig, resolve
from gantk.train.ema import Average
from gantk.train.log import Log
from gantk.train.reporter import Reporter
from gantk.train.samples import Showroom
from gantk.train.sitting import TrainResult
from gantk.train.state import State
from gantk.train.training import Training

_BETAS = (0.5, 0.999)  # Section 4 of the DCGAN paper.


def train(config: TrainConfig, *, force: bool = False, reporter: Reporter | None = None) -> TrainResult:
    """Begin a run; see `gantk.train.sitting.begin`."""
    return sitting.begin(GanTraining, config, force=force, reporter=reporter)


def resume(
    run: Path, changes: Mapping[str, Any] | None = None, *, reporter: Reporter | None = None
) -> TrainResult:
    """Go on with a run from its newest whole checkpoint; see `gantk.train.sitting.resume`."""
    return sitting.resume(GanTraining, run, changes, reporter=reporter)


class GanTraining(Training[TrainConfig]):
    """A generator and a discriminator."""

    kind = "dcgan"
    config_type = TrainConfig
    smaller = "a smaller --batch, --width or --size"

    def __init__(self, fabric: Any, config: TrainConfig, pictures: Pictures) -> None:
        super().__init__(fabric, config, pictures)
        self.state = _build(config, fabric.device, fabric.global_rank)
        self._ones = torch.ones(config.batch, device=fabric.device)
        self._labels = _labels(config, pictures, fabric)
        self._augmentations = parse(config.augment)

    @classmethod
    def resolve(cls, config: TrainConfig, reporter: Reporter) -> TrainConfig:
        source = find_source(config.data)
        resolved = resolve(config, source)
        if config.channels is None and source.files:
            reporter.say(_channels_chosen(source))
        if config.augment == AUTO and resolved.augment != NONE:
            reporter.say(
                f"{source.count} pictures are few: the discriminator is shown them, and samples, augmented "
                f"({resolved.augment}), lest it learns them by heart; --augment none turns it off"
            )
        return resolved

    @cached_property
    def showroom(self) -> Showroom:
        return Showroom(Path(self.config.out), self.config, self.pictures, self._labels, self.fabric.device)

    def facts(self) -> dict[str, Any]:
        if self._labels is None:
            return {}
        digest = hashlib.sha256(self._labels.cpu().numpy().tobytes()).hexdigest()
        return {"classes": {"names": list(self.config.classes), "fingerprint": digest[:16]}}

    def set_up(self) -> None:
        networks, optimizers = self.state.networks, self.state.optimizers
        self._generator, self._optimizer_g = self.fabric.setup(networks["generator"], optimizers["generator"])
        self._discriminator, self._optimizer_d = self.fabric.setup(
            networks["discriminator"], optimizers["discriminator"]
        )

    def step(self, batch: Batch, total: int) -> dict[str, Tensor]:
        config, state, fabric, ones = self.config, self.state, self.fabric, self._ones
        real = normalise(batch.pictures, fabric.device)
        # Samples are of the classes of the batch, or there are none.
        labels = [] if self._labels is None else [self._labels[batch.places.to(fabric.device)]]
        latents = torch.randn(config.batch, config.latent_size, generator=state.draws, device=fabric.device)
        fakes = self._generator(latents, *labels)

        _set_rates(state, config, total)

        # Phase 1: the discriminator learns to tell real pictures from detached samples.
        real_logits, fake_logits = (
            self._discriminator(self._augment(pictures), *labels) for pictures in (real, fakes.detach())
        )
        real_labels, fake_labels = ones - config.label_smoothing, torch.zeros_like(ones)
        loss_d = (_loss(real_logits, real_labels) + _loss(fake_logits, fake_labels)) / 2
        skipped = config.skip_d_below > 0 and float(fabric.all_reduce(loss_d.detach())) < config.skip_d_below
        if not skipped:
            self._optimizer_d.zero_grad()
            fabric.backward(loss_d)
            self._optimizer_d.step()

        # Phase 2: the generator learns to pass its samples off as real ones to the frozen discriminator.
        discriminator, shown = state.networks["discriminator"], self._augment(fakes)
        with _frozen(discriminator), fabric.autocast():
            loss_g = _loss(discriminator(shown, *labels), ones)
        self._optimizer_g.zero_grad()
        fabric.backward(loss_g)
        self._optimizer_g.step()
        return _measure(loss_d, loss_g, real_logits, fake_logits, skipped)

    def _augment(self, pictures: Tensor) -> Tensor:
        """What the discriminator is shown of pictures, real ones and samples alike."""
        return augment(pictures, self._augmentations, self.state.draws)

    def settle(self) -> None:
        self.showroom.settle(self.state.average)

    def show(self, log: Log, epoch: int, reporter: Reporter) -> None:
        self.showroom.show(self.state.average, log, self.state.step, epoch, reporter)

    def warnings(self, history: Sequence[dict[str, Any]]) -> dict[str, str]:
        return health.warnings(history)


def _channels_chosen(source: Source) -> str:
    if source.coloured is None:
        return "all pictures are grey: they are learned with one channel; --channels 3 takes three"
    first = source.coloured.relative_to(source.path)
    return f"`{first}` has colours: pictures are learned with three channels; --channels 1 takes one"


def _labels(config: TrainConfig, pictures: Pictures, fabric: Any) -> Tensor | None:
    """The class of each of this process's pictures, int64[N], where classes are learned."""
    if not config.classes:
        return None
    skipped = {path for path, _ in pictures.skipped}
    found = read_labels(
        find_source(config.data),
        config.classes,
        rank=fabric.global_rank,
        world=fabric.world_size,
        skipped=skipped,
    )
    return torch.from_numpy(found).to(fabric.device)


def _build(config: TrainConfig, device: torch.device, rank: int) -> State:
    """Networks with fresh weights, which are the same in every process; latents and dropout are not."""
    torch.manual_seed(config.seed)
    network = config.network_config()
    # Convolutions are faster with channels last: `benchmarks/results/training.json`.
    networks: dict[str, nn.Module] = {
        name: make(config.network, network).to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        for name, make in (("generator", models.build), ("discriminator", models.build_discriminator))
    }
    torch.manual_seed(config.seed * 1000 + rank + 1)
    rates = {"generator": config.lr_g, "discriminator": config.lr_d}
    return State(
        networks,
        {
            name: torch.optim.Adam(networks[name].parameters(), rate, _BETAS, fused=True)
            for name, rate in rates.items()
        },
        Average(networks["generator"], config.ema),
        torch.Generator(device).manual_seed(config.seed * 1000 + rank),
    )


def _set_rates(state: State, config: TrainConfig, total: int) -> None:
    """Set the learning rates of a step: constant, or falling to zero over the second half."""
    share = min(1.0, 2 * (1 - state.step / total)) if config.anneal else 1.0
    for name, rate in (("generator", config.lr_g), ("discriminator", config.lr_d)):
        for group in state.optimizers[name].param_groups:
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

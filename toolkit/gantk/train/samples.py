# SPDX-License-Identifier: Apache-2.0
"""Samples of the averaged generator from the same inputs every time, and how diverse they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gantk.data import Pictures
from gantk.runtime.pictures import class_columns, grid, save
from gantk.train import health, plots
from gantk.train.config import TrainConfig
from gantk.train.ema import Average
from gantk.train.log import Log
from gantk.train.reporter import Reporter

_ROWS, _COLUMNS = 8, 8
_COMPARED = 256
_SETTLED = 512


class Showroom:
    """Shows what the generator can do.

    Args:
        run: The run folder.
        config: The resolved configuration.
        pictures: Real pictures, to compare the samples' diversity with.
        labels: int64[N], the classes of the pictures, where the generator takes any.
        device: Where the generator is.
    """

    def __init__(
        self,
        run: Path,
        config: TrainConfig,
        pictures: Pictures,
        labels: Tensor | None,
        device: torch.device,
    ) -> None:
        self._run = run
        # Drawn on the CPU, whatever the device, and apart from the training's own random numbers.
        rng = torch.Generator().manual_seed(config.seed)
        self._inputs = [torch.randn(_COMPARED, config.latent_size, generator=rng).to(device)]
        self._settling = [torch.randn(_SETTLED, config.latent_size, generator=rng).to(device)]
        self._columns = _COLUMNS
        # A column for each class, and statistics of classes as they are among the pictures.
        if labels is not None:
            classes = len(config.classes)
            self._inputs.append(torch.arange(_COMPARED, device=device) % classes)
            self._settling.append(labels[torch.arange(_SETTLED, device=device) * len(labels) // _SETTLED])
            self._columns = class_columns(classes) or _COLUMNS
        self._spread_of_real = health.spread(torch.from_numpy(np.array(pictures.sample(_COMPARED))))

    def settle(self, average: Average) -> None:
        """Give the averaged generator the batch-norm statistics that belong to its weights."""
        average.settle(*self._settling)

    def show(self, average: Average, log: Log, step: int, epoch: int, reporter: Reporter) -> None:
        """Write a grid, a line on the run's health, and the curves."""
        samples = average.sample(*self._inputs)
        shown = samples[: _ROWS * self._columns]
        pixels = grid(shown.permute(0, 2, 3, 1).numpy(), columns=self._columns)
        path = self._run / "samples" / f"epoch-{max(epoch, 1):04d}.png"
        save(path, pixels)
        spread = health.spread(samples)
        accuracy = _recent_accuracy(log)
        record = {
            "event": "snapshot",
            "step": step,
            "epoch": epoch,
            "diversity": round(spread / max(self._spread_of_real, 1e-6), 6),
            "diversity_samples": round(spread, 4),
            "diversity_real": round(self._spread_of_real, 4),
            "d_accuracy": round(accuracy, 6),
        }
        log.add(record)
        log.draw("losses.png", plots.draw_losses(log.history))
        log.draw("health.png", plots.draw_health(log.history))
        log.show(pixels, step)
        reporter.snapshot(epoch, path, record)


def _recent_accuracy(log: Log) -> float:
    """The discriminator's mean accuracy since the last snapshot."""
    values = []
    for line in reversed(log.history):
        if line["event"] == "snapshot":
            break
        values.append(line["d_accuracy"])
    return sum(values) / max(len(values), 1)

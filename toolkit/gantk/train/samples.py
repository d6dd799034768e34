# SPDX-License-Identifier: Apache-2.0
"""Samples of the averaged generator from the same latents every time, and how diverse they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from gantk.data import Pictures
from gantk.data.decode import png_bytes
from gantk.files import write_bytes
from gantk.train import health
from gantk.train.config import TrainConfig
from gantk.train.ema import Average
from gantk.train.log import Log
from gantk.train.reporter import Reporter

_SHOWN = 64
_COMPARED = 256
_SETTLED = 512


class Showroom:
    """Shows what the generator can do.

    Args:
        run: The run folder.
        config: The resolved configuration.
        pictures: Real pictures, to compare the samples' diversity with.
        device: Where the generator is.
    """

    def __init__(self, run: Path, config: TrainConfig, pictures: Pictures, device: torch.device) -> None:
        self._run = run
        # Drawn on the CPU, whatever the device, and apart from the training's own random numbers.
        rng = torch.Generator().manual_seed(config.seed)
        self._latents = torch.randn(_COMPARED, config.latent_size, generator=rng).to(device)
        self._settling = torch.randn(_SETTLED, config.latent_size, generator=rng).to(device)
        self._spread_of_real = health.spread(torch.from_numpy(np.array(pictures.sample(_COMPARED))))

    def settle(self, average: Average) -> None:
        """Give the averaged generator the batch-norm statistics that belong to its weights."""
        average.settle(self._settling)

    def show(self, average: Average, log: Log, step: int, epoch: int, reporter: Reporter) -> None:
        """Write a grid, a line on the run's health, and the curves."""
        samples = average.sample(self._latents)
        pixels = grid(samples[:_SHOWN].numpy())
        path = self._run / "samples" / f"epoch-{max(epoch, 1):04d}.png"
        write_bytes(path, png_bytes(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
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
        log.draw()
        log.show(pixels, step)
        reporter.snapshot(epoch, path, record)


def grid(pictures: NDArray[np.uint8], columns: int = 8, gap: int = 2) -> NDArray[np.uint8]:
    """Put pictures side by side on white.

    Args:
        pictures: uint8[N, C, H, W].
        columns: In a row.
        gap: Pixels between pictures.

    Returns:
        uint8[H', W', C].
    """
    count, channels, height, width = pictures.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    whole = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8)
    for index, picture in enumerate(pictures):
        row, column = divmod(index, columns)
        top, left = gap + row * (height + gap), gap + column * (width + gap)
        whole[top : top + height, left : left + width] = picture.transpose(1, 2, 0)
    return whole


def _recent_accuracy(log: Log) -> float:
    """The discriminator's mean accuracy since the last snapshot."""
    values = []
    for line in reversed(log.history):
        if line["event"] == "snapshot":
            break
        values.append(line["d_accuracy"])
    return sum(values) / max(len(values), 1)

# SPDX-License-Identifier: Apache-2.0
"""What the trainings of networks that paint in the style of pictures have in common."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from gantk.data.batches import normalise_unit
from gantk.runtime.pictures import Pixels
from gantk.train import plots
from gantk.train.log import Log
from gantk.train.options import RunConfig
from gantk.train.reporter import Reporter
from gantk.train.styles import middle, save_sheet
from gantk.train.training import Training

CONTENTS_SHOWN = 4
STYLES_SHOWN = 6
_WARM_UP_STEPS = 40


@dataclass(frozen=True)
class PaintingConfig(RunConfig):
    """A training of a network that paints pictures in the style of others.

    Args:
        vgg: A file of VGG-19's weights; by default torchvision's, fetched once.
        size: The height and width of the random parts of pictures that are learned from, in pixels.
        lr: The learning rate.
        content_weight: Of the distance from the content.
        style_weight: Of the distance from the style.

    The other arguments, and the errors, are those of `gantk.train.options.RunConfig`.
    """

    limits: ClassVar[Mapping[str, tuple[float, float]]] = {
        **RunConfig.limits,
        "size": (64, 2048),
        "lr": (0.0, 1.0),
        "content_weight": (0.0, 1e6),
        "style_weight": (0.0, 1e6),
    }
    changeable: ClassVar[frozenset[str]] = RunConfig.changeable | {"vgg"}

    epochs: int | None = 1
    steps: int | None = 2000
    batch: int = 4
    flip: bool = True
    checkpoint_every: int = 500
    vgg: str | None = None
    size: int = 256
    lr: float = 1e-3
    content_weight: float = 1.0
    style_weight: float = 2.0

    @property
    def crop(self) -> int:
        return self.size

    @property
    def decoded(self) -> tuple[int, int]:
        """A quarter larger than what is learned from, so that there is something to choose."""
        return self.size * 5 // 4, 3

    @property
    def vgg_path(self) -> Path | None:
        return None if self.vgg is None else Path(self.vgg)

    def show_every(self, per_epoch: int, total: int) -> int:
        """As `RunConfig.show_every`, but at least twenty times: an epoch may be all there is."""
        every = super().show_every(per_epoch, total)
        return every if self.sample_every else min(every, math.ceil(total / 20))


P = TypeVar("P", bound=PaintingConfig)


class PaintingTraining(Training[P]):
    """A training that is judged by a few pictures, each painted in a few styles."""

    smaller = "a smaller --batch or --size"
    distances: ClassVar[tuple[str, ...]]
    """The metrics to draw curves of."""

    @abstractmethod
    def some_styles(self) -> Pixels:
        """Up to `STYLES_SHOWN` styles to show, uint8[S, 3, size, size]."""

    @abstractmethod
    def paint(self, pictures: Tensor, styles: Pixels, number: int) -> Tensor:
        """Paint with the averaged network.

        Args:
            pictures: float32[N, 3, size, size] in [0, 1].
            styles: What `some_styles` gave.
            number: The one of them to paint in.

        Returns:
            float32[N, 3, size, size].
        """

    def learn(self, loss: Tensor) -> None:
        """Take the optimiser's step down a loss; the first steps are shorter, for Adam knows no gradients yet."""
        for group in self.state.optimizers["generator"].param_groups:
            group["lr"] = self.config.lr * min(1.0, (self.state.step + 1) / _WARM_UP_STEPS)
        self._optimizer.zero_grad()
        self.fabric.backward(loss)
        self._optimizer.step()

    def set_up_with(self, network: nn.Module) -> Any:
        """Give a network, all of whose free weights learn, to Fabric; it comes back wrapped."""
        wrapped, self._optimizer = self.fabric.setup(network, self.state.optimizers["generator"])
        return wrapped

    def show(self, log: Log, epoch: int, reporter: Reporter) -> None:
        step, (contents, styles) = self.state.step, self._shown
        given = normalise_unit(torch.from_numpy(contents), self.fabric.device)
        path = Path(self.config.out) / "samples" / f"step-{step:07d}.png"
        with torch.no_grad():
            painted = [self.paint(given, styles, number) for number in range(len(styles))]
        sheet = save_sheet(path, contents, styles, painted)
        record = {"event": "snapshot", "step": step, "epoch": epoch}
        log.add(record)
        log.draw("losses.png", plots.draw_distances(log.history, self.distances))
        log.show(sheet, step)
        reporter.snapshot(epoch, path, record)

    @cached_property
    def _shown(self) -> tuple[Pixels, Pixels]:
        contents = middle(self.pictures.sample(CONTENTS_SHOWN), self.config.size)
        return np.ascontiguousarray(contents), np.ascontiguousarray(self.some_styles())

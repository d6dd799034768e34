# SPDX-License-Identifier: Apache-2.0
"""The averaged generator, which samples and exports are made with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


class Average:
    """An exponential moving average of a generator's weights.

    Args:
        generator: float[N, latent_size], and perhaps labels int64[N], -> pictures; it is copied.
        decay: The share of itself that the average keeps at each step. It is lower at first,
            (1 + t) / (10 + t) at step t, so that a short run is not full of its initial weights.
    """

    def __init__(self, generator: nn.Module, decay: float) -> None:
        self.module = deepcopy(generator).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, generator: nn.Module, step: int) -> None:
        """Move towards the weights that `generator` has after `step` steps."""
        decay = min(self._decay, (1 + step) / (10 + step))
        for mine, its in zip(self.module.parameters(), generator.parameters(), strict=True):
            mine.lerp_(its, 1 - decay)

    @torch.no_grad()
    def settle(self, *inputs: Tensor, batch: int = 64) -> None:
        """Measure the batch-norm statistics that belong to the averaged weights.

        Statistics averaged along with the weights would be those of other networks. They are measured anew,
        as for averaged classifiers (arXiv 1803.05407, section 3.2).

        Args:
            inputs: What the generator takes, N of each.
            batch: How many go through the network at a time.
        """
        norms = [module for module in self.module.modules() if isinstance(module, _BATCH_NORMS)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # A plain mean over the batches.
        self.module.train()
        for part in _split(inputs, batch):
            self.module(*part)
        self.module.eval()
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    @torch.no_grad()
    def sample(self, *inputs: Tensor, batch: int = 64) -> Tensor:
        """Pictures of what the generator takes: uint8[N, C, H, W] on the CPU."""
        parts = [self.module(*part).add(1).mul(127.5).round().clamp(0, 255) for part in _split(inputs, batch)]
        return torch.cat(parts).to(torch.uint8).cpu().contiguous()


def _split(inputs: Sequence[Tensor], batch: int) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(torch.split(tensor, batch) for tensor in inputs), strict=True)

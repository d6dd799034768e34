# SPDX-License-Identifier: Apache-2.0
"""The generator of FastGAN (Liu et al., arXiv 2101.04775, section 3 and appendix A) with random weights.

Blocks that double the picture end in gated linear units; pictures of 64 pixels and more are scaled, channel by channel,
by what small ones excite. Its authors' code adds noise, drawn in each run, behind every other block's convolutions. The
spectral norms of a training are part of the weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTHS = {4: 16.0, 8: 8.0, 16: 4.0, 32: 2.0, 64: 2.0, 128: 1.0, 256: 0.5}
"""Of the features of each size, in terms of the network's width."""


class Noise(nn.Module):
    """One channel of it, added to all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([0.1]))

    def forward(self, x: Tensor) -> Tensor:
        count, _, height, width = x.shape
        return x + self.weight * torch.randn(count, 1, height, width, device=x.device)


def layer(convolution: nn.Conv2d | nn.ConvTranspose2d, *, noisy: bool) -> list[nn.Module]:
    """A convolution to twice as many channels, of which one half gates the other."""
    noise = [Noise()] if noisy else []
    return [convolution, *noise, nn.BatchNorm2d(convolution.out_channels), nn.GLU(1)]


def doubled(before: int, made: int, *, noisy: bool) -> nn.Module:
    """Pictures of twice the size; those with noise by two convolutions."""
    first, second = (nn.Conv2d(count, 2 * made, 3, 1, 1, bias=False) for count in (before, made))
    layers = layer(first, noisy=noisy)
    return nn.Sequential(nn.Upsample(scale_factor=2), *layers, *(layer(second, noisy=True) if noisy else []))


class Excitation(nn.Module):
    """Scales each channel of large features by what small ones have (figure 3)."""

    def __init__(self, small: int, large: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(small, large, 4, bias=False)
        self.excite = nn.Conv2d(large, large, 1, bias=False)

    def forward(self, small: Tensor, large: Tensor) -> Tensor:
        found = F.silu(self.squeeze(F.adaptive_avg_pool2d(small, 4)))
        return large * torch.sigmoid(self.excite(found))


class FastGAN(nn.Module):
    """Latents [N, latent, 1, 1] to pictures of `size` pixels."""

    def __init__(self, size: int = 256, width: int = 64, latent: int = 256) -> None:
        super().__init__()
        widths = {side: int(times * width) for side, times in WIDTHS.items() if side <= size}
        first = nn.ConvTranspose2d(latent, 2 * widths[4], 4, bias=False)
        self.first = nn.Sequential(*layer(first, noisy=False))
        self.blocks, self.excitations = nn.ModuleDict(), nn.ModuleDict()
        for index, side in enumerate(list(widths)[1:]):
            self.blocks[str(side)] = doubled(widths[side // 2], widths[side], noisy=index % 2 == 0)
            if side >= 64:
                self.excitations[str(side)] = Excitation(widths[side // 16], widths[side])
        self.last = nn.Conv2d(widths[size], 3, 3, 1, 1, bias=False)

    def forward(self, latent: Tensor) -> Tensor:
        x = self.first(latent)
        held = {4: x}
        for name, block in self.blocks.items():
            side = int(name)
            x = block(x)
            if name in self.excitations:
                x = self.excitations[name](held[side // 16], x)
            held[side] = x
        return torch.tanh(self.last(x))

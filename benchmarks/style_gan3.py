# SPDX-License-Identifier: Apache-2.0
"""The generator of StyleGAN3-T (Karras et al., arXiv 2106.12423) with random weights, as exporters see it.

Weights are modulated for each picture, whose convolutions are groups of one; activations are computed at twice the
sampling rate, between filters that put zeros between pixels, filter rows and columns, and keep every second result.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAIN = math.sqrt(2)
LIMIT = 256.0
MARGIN = 10
"""Pixels around the picture that layers compute too, of section 3.2."""


def lowpass(times: int, cutoff: float) -> Tensor:
    """A filter for so many times the sampling rate, of six taps a pixel, by Kaiser's window (appendix C.1)."""
    taps = torch.arange(6 * times, dtype=torch.float64) - (6 * times - 1) / 2
    made = torch.sinc(2 * cutoff * taps / times) * torch.kaiser_window(
        6 * times, False, 6.0, dtype=torch.float64
    )
    return (made / made.sum()).float()


def filtered(
    x: Tensor, kernel: Tensor, *, up: int = 1, down: int = 1, pads: tuple[int, int] = (0, 0)
) -> Tensor:
    """Pictures filtered along rows and columns: zeros between pixels before, every so many results kept behind.

    Args:
        x: [N, C, H, W].
        kernel: Taps.
        up: How many times as many pixels there are with zeros.
        down: Of how many results one is kept.
        pads: Rows and columns of zeros before and behind; below 0 so many go.
    """
    n, c, h, w = map(int, x.shape)
    if up > 1:
        x = F.pad(x.reshape(n, c, h, 1, w, 1), (0, up - 1, 0, 0, 0, up - 1)).reshape(n, c, h * up, w * up)
    x = F.pad(x, (*pads, *pads))
    rows = kernel[None, None, None].repeat(c, 1, 1, 1)
    x = F.conv2d(F.conv2d(x, rows, groups=c), rows.transpose(2, 3), groups=c)
    return x[:, :, ::down, ::down] if down > 1 else x


class Waves(nn.Module):
    """The input: waves of all directions, turned and moved by a transform of the style (appendix C.3)."""

    def __init__(self, channels: int, side: int, latent: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(channels, 2))
        self.register_buffer("phases", torch.rand(channels) - 0.5)
        self.transform = nn.Linear(latent, 4)
        nn.init.normal_(self.transform.weight, std=0.1 / math.sqrt(latent))
        self.transform.bias.data = torch.tensor([1.0, 0.0, 0.0, 0.0])
        self.mixed = nn.Parameter(torch.randn(channels, channels) / math.sqrt(channels))
        places = (torch.arange(side + 2 * MARGIN) + 0.5 - MARGIN) / side - 0.5
        self.register_buffer("grid", torch.stack(torch.meshgrid(places, places, indexing="xy"), 2))

    def forward(self, w: Tensor) -> Tensor:
        cosine, sine, x, y = (self.transform(w) / self.transform(w)[:, :2].norm(dim=1, keepdim=True)).unbind(
            1
        )
        turn = torch.stack([cosine, -sine, sine, cosine], 1).reshape(-1, 2, 2)
        phases = self.phases + (self.frequencies @ torch.stack([x, y], 1)[:, :, None])[:, :, 0]
        waves = self.grid[None] @ (self.frequencies @ turn).transpose(1, 2)[:, None] + phases[:, None, None]
        return (torch.sin(2 * math.pi * waves) @ self.mixed.t()).permute(0, 3, 1, 2)


class Layer(nn.Module):
    """A modulated convolution, a bias, and a leaky ReLU at a higher sampling rate (figure 4b).

    Args:
        inputs: Channels before.
        outputs: Channels behind.
        before: Pixels a side of the picture before, without margins.
        behind: The same behind.
        latent: Of the style.
    """

    def __init__(self, inputs: int, outputs: int, before: int, behind: int, latent: int) -> None:
        super().__init__()
        self.style = nn.Linear(latent, inputs)
        nn.init.normal_(self.style.weight, std=0.3 / math.sqrt(latent))
        nn.init.ones_(self.style.bias)
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.bias = nn.Parameter(torch.randn(outputs) * 0.1)
        self.up, self.down = 2 * behind // before, 2
        self.register_buffer("before", lowpass(self.up, 0.4))
        self.register_buffer("behind", lowpass(self.down, 0.4))
        # What filters take away, and what is to be left before every second result is kept.
        wanted = (behind + 2 * MARGIN - 1) * self.down + 1 + 6 * (self.up + self.down) - 2
        pads = wanted - (before + 2 * MARGIN + 2) * self.up
        self.pads = ((pads + self.up) // 2, pads - (pads + self.up) // 2)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, i, h, wide = map(int, x.shape)
        o = self.weight.shape[0]
        weight = self.weight[None] * self.style(w)[:, None, :, None, None]
        weight = weight * torch.rsqrt(weight.square().sum([2, 3, 4], keepdim=True) + 1e-8)
        x = F.conv2d(x.reshape(1, n * i, h, wide), weight.reshape(n * o, i, 3, 3), padding=2, groups=n)
        x = x.reshape(n, o, h + 2, wide + 2) + self.bias[None, :, None, None]
        x = filtered(x, self.before * self.up, up=self.up, pads=self.pads)
        x = (F.leaky_relu(x, 0.2) * GAIN).clamp(-LIMIT, LIMIT)
        return filtered(x, self.behind, down=self.down)


class StyleGAN3(nn.Module):
    """Pictures of so many pixels a side of latent vectors.

    Args:
        side: Height and width, a power of 2 from 32 on.
        base: The channels of a sampling rate are this over its pixels a side, at most `widest`.
        widest: See `base`.
        latent: Of the vector, and of what styles are made of.
    """

    def __init__(self, side: int = 128, base: int = 2**13, widest: int = 256, latent: int = 256) -> None:
        super().__init__()
        rates = [16, 16, *(2**power for power in range(5, side.bit_length()) for _ in range(2))]
        widths = [min(widest, base // rate) for rate in rates]
        self.mapping = nn.Sequential()
        for _ in range(2):
            layer = nn.Linear(latent, latent)
            nn.init.normal_(layer.weight, std=GAIN / math.sqrt(latent))
            self.mapping.extend([layer, nn.LeakyReLU(0.2)])
        self.start = Waves(widths[0], 16, latent)
        sizes = zip([16, *rates[:-1]], rates, strict=True)
        channels = zip([widths[0], *widths[:-1]], widths, strict=True)
        self.layers = nn.ModuleList(
            Layer(*counts, *sides, latent) for sides, counts in zip(sizes, channels, strict=True)
        )
        self.painted = nn.Conv2d(widths[-1], 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))
        x = self.start(w)
        for layer in self.layers:
            x = layer(x, w)
        return self.painted(x)[:, :, MARGIN:-MARGIN, MARGIN:-MARGIN]

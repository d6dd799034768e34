# SPDX-License-Identifier: Apache-2.0
"""The generator of StyleGAN2 (Karras et al., arXiv 1912.04958) with random weights, as exporters see it.

Weights are modulated for each picture, whose convolutions are groups of one, and filters see channels as pictures: as
the public PyTorch ports do it, and so the files that PyTorch exports of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GAIN = math.sqrt(2)


def smoothing() -> Tensor:
    """The filter between pictures and ones twice as large, whose sum is 4."""
    row = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return 4 * row[:, None] * row / row.sum().square()


def filtered(x: Tensor, kernel: Tensor, pads: tuple[int, int]) -> Tensor:
    """Pictures filtered channel by channel, with zeros before and behind their rows and columns."""
    n, c, h, w = map(int, x.shape)
    before, behind = pads
    padded = F.pad(x, (before, behind, before, behind)).reshape(
        n * c, 1, h + before + behind, w + before + behind
    )
    made = F.conv2d(padded, kernel[None, None])
    return made.view(n, c, int(made.shape[2]), int(made.shape[3]))


def enlarged(x: Tensor, kernel: Tensor) -> Tensor:
    """Pictures twice as large: zeros between pixels, filtered."""
    n, c, h, w = map(int, x.shape)
    apart = F.pad(x.reshape(n * c, h, 1, w, 1), (0, 1, 0, 0, 0, 1))
    return filtered(apart.reshape(n, c, 2 * h, 2 * w), kernel, (2, 1))


class Modulated(nn.Module):
    """A convolution whose weights each picture multiplies by a style, of section 2.2."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        latent: int,
        *,
        demodulate: bool = True,
        enlarge: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, outputs, inputs, kernel, kernel))
        self.style = nn.Linear(latent, inputs)
        nn.init.normal_(self.style.weight, std=0.3 / math.sqrt(latent))
        nn.init.ones_(self.style.bias)
        self.demodulate, self.enlarge = demodulate, enlarge
        self.register_buffer("kernel", smoothing())

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        n, i, h, wide = map(int, x.shape)
        o, side = self.weight.shape[1], self.weight.shape[-1]
        weight = self.weight / math.sqrt(i * side**2) * self.style(w).view(n, 1, i, 1, 1)
        if self.demodulate:
            weight = weight * torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8).view(n, o, 1, 1, 1)
        x = x.reshape(1, n * i, h, wide)
        if not self.enlarge:
            return F.conv2d(x, weight.view(n * o, i, side, side), padding=side // 2, groups=n).view(
                n, o, h, wide
            )
        weight = weight.transpose(1, 2).reshape(n * i, o, side, side)
        x = F.conv_transpose2d(x, weight, stride=2, groups=n)
        return filtered(x.view(n, o, 2 * h + 1, 2 * wide + 1), self.kernel, (1, 1))


class Styled(nn.Module):
    """A modulated convolution, noise of its own, a bias and a leaky ReLU."""

    def __init__(self, inputs: int, outputs: int, side: int, latent: int, *, enlarge: bool = False) -> None:
        super().__init__()
        self.convolution = Modulated(inputs, outputs, 3, latent, enlarge=enlarge)
        self.register_buffer("noise", torch.randn(1, 1, side, side))
        self.strength = nn.Parameter(torch.tensor(0.1))
        self.bias = nn.Parameter(torch.randn(1, outputs, 1, 1) * 0.1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        return F.leaky_relu(self.convolution(x, w) + self.strength * self.noise + self.bias, 0.2) * GAIN


class Painted(nn.Module):
    """What a size adds to the picture of half its size."""

    def __init__(self, inputs: int, latent: int) -> None:
        super().__init__()
        self.convolution = Modulated(inputs, 3, 1, latent, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))
        self.register_buffer("kernel", smoothing())

    def forward(self, x: Tensor, w: Tensor, picture: Tensor | None) -> Tensor:
        painted = self.convolution(x, w) + self.bias
        return painted if picture is None else painted + enlarged(picture, self.kernel)


class StyleGAN2(nn.Module):
    """Pictures of so many pixels a side of latent vectors.

    Args:
        side: Height and width, a power of 2.
        base: The channels of a size are this over its pixels a side, at most `widest`.
        widest: See `base`.
        latent: Of the vector, and of what styles are made of.
    """

    def __init__(self, side: int = 256, base: int = 2**14, widest: int = 512, latent: int = 512) -> None:
        super().__init__()
        sides = [2**power for power in range(2, side.bit_length())]
        widths = {side: min(widest, base // side) for side in sides}
        self.mapping = nn.Sequential()
        for _ in range(8):
            layer = nn.Linear(latent, latent)
            nn.init.normal_(layer.weight, std=GAIN / math.sqrt(latent))
            self.mapping.extend([layer, nn.LeakyReLU(0.2)])
        self.start = nn.Parameter(torch.randn(1, widths[4], 4, 4))
        self.first = Styled(widths[4], widths[4], 4, latent)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    Styled(widths[side // 2], widths[side], side, latent, enlarge=True),
                    Styled(widths[side], widths[side], side, latent),
                ]
            )
            for side in sides[1:]
        )
        self.painted = nn.ModuleList(Painted(widths[side], latent) for side in sides)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))
        x = self.first(self.start.repeat(z.shape[0], 1, 1, 1), w)
        picture = self.painted[0](x, w, None)
        for (larger, further), painted in zip(self.layers, self.painted[1:], strict=True):
            x = further(larger(x, w), w)
            picture = painted(x, w, picture)
        return picture

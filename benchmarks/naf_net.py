# SPDX-License-Identifier: Apache-2.0
"""NAFNet (Chen et al., arXiv 2204.04676, figure 3c and section 5), which restores pictures, with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Of each pixel, over its channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, width, 1, 1))
        self.offset = nn.Parameter(torch.zeros(1, width, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        return centred / (centred.pow(2).mean(1, keepdim=True) + 1e-6).sqrt() * self.scale + self.offset


def gate(x: Tensor) -> Tensor:
    """One half of the channels times the other."""
    first, second = x.chunk(2, 1)
    return first * second


class Block(nn.Module):
    """A depthwise convolution with attention to channels, and two of single pixels, each with a gate."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(LayerNorm(width) for _ in range(2))
        self.wide = nn.Sequential(
            nn.Conv2d(width, 2 * width, 1), nn.Conv2d(2 * width, 2 * width, 3, 1, 1, groups=2 * width)
        )
        self.attention, self.narrow = nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 1)
        self.first, self.last = nn.Conv2d(width, 2 * width, 1), nn.Conv2d(width, width, 1)
        self.shares = nn.ParameterList(torch.full((1, width, 1, 1), 0.3) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        made = gate(self.wide(self.norms[0](x)))
        x = x + self.shares[0] * self.narrow(made * self.attention(made.mean((2, 3), keepdim=True)))
        return x + self.shares[1] * self.last(gate(self.first(self.norms[1](x))))


class NAFNet(nn.Module):
    """A U-Net of such blocks: pictures of sides that are multiples of 2 to the power of its sizes."""

    def __init__(self, width: int = 32, sizes: int = 3, blocks: int = 1, middle: int = 2) -> None:
        super().__init__()
        widths = [width * 2**size for size in range(sizes)]
        self.first, self.last = nn.Conv2d(3, width, 3, 1, 1), nn.Conv2d(width, 3, 3, 1, 1)
        self.down = nn.ModuleList(
            nn.ModuleList([nn.Sequential(*(Block(w) for _ in range(blocks))), nn.Conv2d(w, 2 * w, 2, 2)])
            for w in widths
        )
        self.middle = nn.Sequential(*(Block(2 * widths[-1]) for _ in range(middle)))
        self.up = nn.ModuleList(
            nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(2 * w, 4 * w, 1, bias=False), nn.PixelShuffle(2)),
                    nn.Sequential(*(Block(w) for _ in range(blocks))),
                ]
            )
            for w in reversed(widths)
        )

    def forward(self, picture: Tensor) -> Tensor:
        x, held = self.first(picture), []
        for blocks, smaller in self.down:
            x = blocks(x)
            held.append(x)
            x = smaller(x)
        x = self.middle(x)
        for larger, blocks in self.up:
            x = blocks(larger(x) + held.pop())
        return picture + self.last(x)

# SPDX-License-Identifier: Apache-2.0
"""The decoder of latent diffusion (Rombach et al., arXiv 2112.10752, appendix G) with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

GROUPS = 32


class Block(nn.Module):
    """What it is given, and what two normalised convolutions make of it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(GROUPS, width, eps=1e-6) for width in (inputs, outputs))
        self.layers = nn.ModuleList(nn.Conv2d(width, outputs, 3, 1, 1) for width in (inputs, outputs))
        self.same = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        made = x
        for norm, layer in zip(self.norms, self.layers, strict=True):
            made = layer(F.silu(norm(made)))
        return self.same(x) + made


class Attention(nn.Module):
    """Each pixel of a small picture sees all others."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.query, self.key, self.value, self.out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        normal = self.norm(x)
        query, key, value = (layer(normal).flatten(2) for layer in (self.query, self.key, self.value))
        weights = torch.softmax(query.transpose(1, 2) @ key * x.shape[1] ** -0.5, -1)
        return x + self.out((value @ weights.transpose(1, 2)).view(x.shape))


def decoder(
    width: int = 64, multiples: tuple[int, ...] = (1, 2, 4), latent: int = 4, blocks: int = 2
) -> nn.Module:
    """Of latent pictures, each side doubled once less than there are multiples.

    Args:
        width: Channels of the finished picture's features.
        multiples: Of these, at each size.
        latent: Channels of a latent picture.
        blocks: At each size one more than these.
    """
    widths = [width * multiple for multiple in reversed(multiples)]
    layers: list[nn.Module] = [nn.Conv2d(latent, widths[0], 3, 1, 1)]
    layers += [Block(widths[0], widths[0]), Attention(widths[0]), Block(widths[0], widths[0])]
    before = widths[0]
    for index, made in enumerate(widths):
        for _ in range(blocks + 1):
            layers.append(Block(before, made))
            before = made
        if index + 1 < len(widths):
            layers += [nn.Upsample(scale_factor=2), nn.Conv2d(made, made, 3, 1, 1)]
    return nn.Sequential(
        *layers, nn.GroupNorm(GROUPS, before, eps=1e-6), nn.SiLU(), nn.Conv2d(before, 3, 3, 1, 1)
    )

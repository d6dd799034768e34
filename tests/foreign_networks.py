# SPDX-License-Identifier: Apache-2.0
"""Small generators of the kinds that people bring, after the papers that are named; gantk has none of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from style_gan2 import StyleGAN2


class Residual(nn.Module):
    def __init__(self, width: int, norm: type[nn.Module]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), norm(width), nn.ReLU()]
        self.layers = nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


def cycle_gan(norm: type[nn.Module] = nn.InstanceNorm2d, width: int = 8) -> nn.Module:
    """Zhu et al., arXiv 1703.10593, section 7.2: kernels of 3 with an output padding."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), norm(width), nn.ReLU()]
    for w in (width, 2 * width):
        layers += [nn.Conv2d(w, 2 * w, 3, 2, 1), norm(2 * w), nn.ReLU()]
    layers += [Residual(4 * width, norm), Residual(4 * width, norm)]
    for w in (4 * width, 2 * width):
        layers += [nn.ConvTranspose2d(w, w // 2, 3, 2, 1, output_padding=1), norm(w // 2), nn.ReLU()]
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(width, 3, 7), nn.Tanh())


class Pix2Pix(nn.Module):
    """Isola et al., arXiv 1611.07004, section 6.1.1: skips, and a dropout that is off."""

    def __init__(self, widths: Sequence[int] = (3, 8, 16, 32)) -> None:
        super().__init__()
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 4, 2, 1), nn.LeakyReLU(0.2)) for a, b in pairs
        )
        self.up = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(b if b == widths[-1] else 2 * b, a, 4, 2, 1),
                nn.BatchNorm2d(a),
                nn.Dropout(),
            )
            for a, b in reversed(pairs)
        )

    def forward(self, x: Tensor) -> Tensor:
        held = []
        for layer in self.down:
            x = layer(x)
            held.append(x)
        held.pop()
        for layer in self.up:
            x = layer(x)
            x = torch.cat([F.relu(x), held.pop()], 1) if held else x.tanh()
        return x


class Upscaler(nn.Module):
    """Ledig et al., arXiv 1609.04802, and Wang et al., arXiv 1809.00219: PReLU, pixel shuffle, dense blocks."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 9, 1, 4), nn.PReLU())
        self.dense = nn.ModuleList(nn.Conv2d((n + 1) * width, width, 3, 1, 1) for n in range(3))
        self.norm = nn.BatchNorm2d(width)
        self.last = nn.Sequential(nn.Conv2d(width, 4 * width, 3, 1, 1), nn.PixelShuffle(2), nn.PReLU(width))
        self.paint = nn.Conv2d(width, 3, 9, 1, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        held = [x]
        for layer in self.dense:
            held.append(F.leaky_relu(layer(torch.cat(held, 1)), 0.2))
        x = F.interpolate(self.last(x + 0.2 * self.norm(held[-1])), scale_factor=2, mode="nearest")
        return self.paint(x)


class SelfAttention(nn.Module):
    """Zhang et al., arXiv 1805.08318, after the first layer of a classic DCGAN, with spectral norms."""

    def __init__(self, latent: int = 16, width: int = 8) -> None:
        super().__init__()
        norm = nn.utils.parametrizations.spectral_norm
        self.first = nn.Sequential(
            *(norm(nn.ConvTranspose2d(latent, 2 * width, 4)), nn.BatchNorm2d(2 * width), nn.ReLU()),
            *(norm(nn.ConvTranspose2d(2 * width, width, 4, 2, 1)), nn.BatchNorm2d(width), nn.ReLU()),
        )
        self.query, self.key, self.value = (nn.Conv2d(width, width, 1) for _ in range(3))
        self.share = nn.Parameter(torch.tensor(0.5))
        self.last = nn.Sequential(nn.ConvTranspose2d(width, 3, 4, 2, 1), nn.Tanh())

    def forward(self, z: Tensor) -> Tensor:
        x = self.first(z[:, :, None, None])
        query, key, value = (layer(x).flatten(2) for layer in (self.query, self.key, self.value))
        attention = torch.softmax(query.transpose(1, 2) @ key, -1)
        return self.last(x + self.share * (value @ attention.transpose(1, 2)).view(x.shape))


class Modulated(nn.Module):
    """Karras et al., arXiv 1912.04958, section 2.2: a mapping network, modulation and demodulation."""

    def __init__(self, latent: int = 16, width: int = 8) -> None:
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(latent, latent), nn.LeakyReLU(0.2), nn.Linear(latent, latent))
        self.start = nn.Parameter(torch.randn(1, width, 4, 4))
        self.kernels = nn.ParameterList(torch.randn(width, width, 3, 3) for _ in range(2))
        self.styles = nn.ModuleList(nn.Linear(latent, width) for _ in range(2))
        self.paint = nn.Conv2d(width, 3, 1)

    def forward(self, z: Tensor) -> Tensor:
        w = self.mapping(z * torch.rsqrt(z.square().mean(1, keepdim=True) + 1e-8))
        x = self.start.expand(z.shape[0], -1, -1, -1)
        for kernel, affine in zip(self.kernels, self.styles, strict=True):
            style = affine(w) + 1
            scale = torch.rsqrt((kernel[None] * style[:, None, :, None, None]).square().sum((2, 3, 4)) + 1e-8)
            x = F.conv2d(x * style[:, :, None, None], kernel, padding=1) * scale[:, :, None, None]
            x = F.leaky_relu(F.interpolate(x, scale_factor=2, mode="bilinear"), 0.2) * math.sqrt(2)
        return self.paint(x)


class StyleSwap(nn.Module):
    """A Gram matrix of one picture, multiplied with the features of another (Zhang and Dana, arXiv 1703.06953)."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.encode = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(3, width, 3, 2), nn.InstanceNorm2d(width), nn.ReLU()
        )
        self.weight = nn.Parameter(torch.eye(width)[None])
        self.decode = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(width, 3, 3, 1, 1), nn.Sigmoid())

    def forward(self, picture: Tensor, style: Tensor) -> Tensor:
        x, rows = self.encode(picture), self.encode(style).flatten(2)
        gram = rows @ rows.transpose(1, 2) / (rows.shape[1] * rows.shape[2])
        mixed = (self.weight @ gram).transpose(1, 2) @ x.flatten(2)
        return self.decode(mixed.view(x.shape))


class Embedded(nn.Module):
    """A class's embedding beside the latent vector (Mirza and Osindero, arXiv 1411.1784)."""

    def __init__(self, latent: int = 16, width: int = 8) -> None:
        super().__init__()
        self.embedding, self.dense = nn.Embedding(10, latent), nn.Linear(2 * latent, 16 * width)
        self.layers = nn.Sequential(
            nn.BatchNorm2d(width), nn.ReLU(), nn.Upsample(scale_factor=2), nn.Conv2d(width, 1, 3, 1, 1)
        )

    def forward(self, z: Tensor, label: Tensor) -> Tensor:
        x = self.dense(torch.cat([z, self.embedding(label)], 1))
        return self.layers(x.view(-1, 8, 4, 4)).tanh()


class Modern(nn.Module):
    """Depthwise convolutions with LayerNorm and GELU (Liu et al., arXiv 2201.03545), GroupNorm and SiLU, a warp."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patch, self.spread = nn.Conv2d(3, width, 4, 4), nn.Conv2d(width, width, 7, 1, 3, groups=width)
        self.norm, self.wide, self.narrow = (
            nn.LayerNorm(width),
            nn.Linear(width, 4 * width),
            nn.Linear(4 * width, width),
        )
        self.group = nn.Sequential(
            nn.GroupNorm(2, width), nn.SiLU(), nn.Conv2d(width, 48, 1), nn.PixelShuffle(4)
        )
        self.flow = nn.Conv2d(3, 2, 3, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch(x)
        inner = self.narrow(F.gelu(self.wide(self.norm(self.spread(patches).permute(0, 2, 3, 1)))))
        painted = self.group(patches + inner.permute(0, 3, 1, 2))
        steps = torch.linspace(-1, 1, 32)
        still = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1)
        moved = still + 0.05 * self.flow(painted).tanh().permute(0, 2, 3, 1)
        return F.grid_sample(painted, moved, align_corners=True).clamp(-1, 1)


def pictures(*sizes: int) -> tuple[Tensor, ...]:
    return tuple(torch.rand(2, 3, size, size) for size in sizes)


LATENT = torch.randn(2, 16)
NETWORKS = {
    "cycle_gan": (cycle_gan, pictures(32), "pictures"),
    "cycle_gan_batch": (lambda: cycle_gan(nn.BatchNorm2d), pictures(32), "pictures"),
    "pix2pix": (Pix2Pix, pictures(32), "batch"),
    "upscaler": (Upscaler, pictures(16), "pictures"),
    "self_attention": (SelfAttention, (LATENT,), "batch"),
    "modulated": (Modulated, (LATENT,), "batch"),
    "style_gan2": (lambda: StyleGAN2(16, 64, 8, 16), (LATENT,), "fixed"),
    "style_swap": (StyleSwap, pictures(32, 48), "fixed"),
    "embedded": (Embedded, (LATENT, torch.tensor([1, 2])), "batch"),
    "modern": (Modern, pictures(32), "batch"),
}
"""By name how each is made, example inputs, and which of their sizes are free."""

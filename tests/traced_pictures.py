# SPDX-License-Identifier: Apache-2.0
"""Small networks from pictures to pictures, traced, and what they compute in float64."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from gantk import checkpoint, models
from gantk.export import pipeline
from gantk.export.network import Network
from gantk.export.original import serialized
from gantk.export.precision import convert
from gantk.export.rewrites import rewrite
from gantk.models import style
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model

SIZES = [(1, 8, 8), (2, 9, 13), (1, 31, 10), (2, 64, 45), (3, 20, 8)]
REWRITTEN = (("enlarged-to-transposed", "narrow-to-phases"), ("enlarged-to-subpixel", "narrow-to-phases"))


def silent(line: str) -> None:
    """A report that nobody reads."""


def make_network(family: str, **config: object) -> nn.Module:
    """Random weights whose pictures have contrast, and whose norms and styles differ from each other."""
    torch.manual_seed(5)
    return _with_contrast(models.build(family, config))


def make_short_network() -> nn.Module:
    """Of a style network a halving, an enlargement and what paints: PyTorch traces it in half the time."""
    torch.manual_seed(5)
    module = models.build("style", {"width": 4, "blocks": 1})
    module.shrink = nn.ModuleList([style.Layer(3, 8, 3, 1, stride=2)])
    module.blocks = nn.ModuleList()
    module.enlarge = nn.ModuleList([style.Layer(8, 4, 3, 1, enlarge=True)])
    return _with_contrast(module)


def _with_contrast(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name.endswith(("scale", "offset")):
                parameter.add_(0.3 * torch.randn_like(parameter))
        last = module.paint.conv if module.family == "style" else module.decoder.convolutions[-1].conv
        feeds = random_feeds(module.config.inputs, {"N": 2, "H": 32, "W": 32, "HS": 32, "WS": 32})
        painted = module(*(torch.from_numpy(array) for array in feeds.values()))
        last.weight.mul_(0.2 / painted.std())
        last.bias.add_(0.5 - last.bias - 0.2 * (painted.mean() - last.bias.mean()) / painted.std())
    return module.eval().requires_grad_(False)


def prepare(module: nn.Module, *, pictures: bool | None = None) -> Network:
    origin = checkpoint.Generator(module, module.family, "tiny", module.config.to_json(), 1)
    return pipeline._prepare(origin, pictures, None, silent)


def file_of(network: Network, names: tuple[str, ...] = (), precision: str = "fp32") -> bytes:
    graph = rewrite(network.traced.graph, names)
    assert graph is not None
    return serialized(network.original, convert(graph, precision), precision, "plain")


def feeds_of(network: Network, batch: int, height: int, width: int, seed: int = 7) -> dict[str, np.ndarray]:
    sizes = {"N": batch, "H": height, "W": width, "HS": width + 3, "WS": height + 1}
    return random_feeds(network.inputs, sizes, seed)


def in_float64(network: Network, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """What the network's own module makes of the pixels, in float64, on the scale of pixels."""
    tensors = [torch.from_numpy(array) for array in feeds.values()]
    inputs = [t.permute(0, 3, 1, 2).double() / 255 if t.dtype == torch.uint8 else t.double() for t in tensors]
    module = network.generator.module
    made = module.double()(*inputs)
    module.float()
    return (255 * made).clamp(0, 255).permute(0, 2, 3, 1).numpy()


def check_sizes(network: Network, backend: str, names: tuple[str, ...]) -> None:
    """Every size comes out as PyTorch makes it."""
    with open_model(from_bytes(file_of(network, names)), backend, threads=1) as runner:
        for size in SIZES:
            feeds = feeds_of(network, *size)
            pixels = runner.run(feeds)["stylized"]
            exact = in_float64(network, feeds)
            assert pixels.dtype == np.uint8
            assert pixels.shape == feeds["picture"].shape == (*size, 3)
            assert exact.std() > 10, "the test wants pictures with contrast"
            # Half a level for rounding, and a little for float32: instance norms of few pixels enlarge it.
            np.testing.assert_allclose(pixels, exact, atol=0.55)

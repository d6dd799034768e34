# SPDX-License-Identifier: Apache-2.0
"""What the graphs of a step are tried with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from gantk.errors import GantkError
from gantk.export.gatys.chain import MOMENTS, StepConfig
from gantk.export.gatys.reference import compute_gradient, compute_targets
from gantk.models.vgg import Vgg19, smallest_size
from gantk.runtime.runner import Array
from gantk.runtime.scenes import draw_scenes

PICTURES = ((1, 64, 80), (2, 37, 51), (1, 95, 48))
"""Batch size, height and width of what each file is tried with; also of the probe, the first of them."""

TAKEN = (0, 1, 40)
"""After how many steps an Adam step is tried."""


def make_trials(network: Vgg19, config: StepConfig) -> tuple[dict[str, Tensor], ...]:
    """What the graphs are tried with: scenes, and weights that make each loss pull as hard as the others.

    Raises:
        GantkError: The network does not tell pictures apart, so that there is nothing to verify or to optimise.
    """
    return tuple(
        make_trial(network, config, index, *sizes, taken)
        for index, (sizes, taken) in enumerate(zip(PICTURES, TAKEN, strict=True))
    )


def make_trial(
    network: Vgg19, config: StepConfig, seed: int, count: int, height: int, width: int, taken: int
) -> dict[str, Tensor]:
    """The inputs of all graphs: `count` pictures of this size, after `taken` steps."""
    smallest = smallest_size(config.last)
    rng = np.random.default_rng(seed)
    height, width = max(height, smallest), max(width, smallest)
    # The pictures of a step that has begun, their contents, and the one style of all.
    scenes = [torch.from_numpy(_scenes(rng, n, height, width)) for n in (count, count, 1)]
    content, style = (compute_targets(network, config, picture) for picture in scenes[1:])
    sizes = torch.stack([style[name].square().mean() for name in config.targets[1:]])
    layer_weights = torch.from_numpy(rng.uniform(0.5, 1.5, len(sizes)).astype(np.float32)) / sizes
    feeds = {"picture": scenes[0], "layer_weights": layer_weights}
    feeds |= {**style, config.targets[0]: content[config.targets[0]]}
    for loss, pull in zip(("content", "style", "variation"), _pulls(network, config, feeds), strict=True):
        if not pull > 0:
            raise GantkError(
                f"these weights give no gradient of the {loss} loss: two pictures look the same to them",
                hint="give the weights of a trained VGG-19 with --vgg FILE",
            )
        feeds[f"{loss}_weight"] = torch.tensor(1.0 / pull)
    return feeds | _state(rng, feeds["picture"], taken)


def _pulls(network: Vgg19, config: StepConfig, feeds: dict[str, Tensor]) -> Iterator[float]:
    """The largest slope that each loss alone gives."""
    names = ("content_weight", "style_weight", "variation_weight")
    for alone in names:
        weights = {name: torch.tensor(float(name == alone)) for name in names}
        yield float(compute_gradient(network, config, feeds | weights)["gradient"].abs().max())


def _state(rng: np.random.Generator, picture: Tensor, taken: int) -> dict[str, Tensor]:
    """Adam's moments after some steps, and its settings."""
    betas = torch.tensor([0.9, 0.999])
    state = {
        name: torch.from_numpy(rng.uniform(0.2, 1.0, picture.shape).astype(np.float32)) * (taken > 0)
        for name in MOMENTS
    }
    return {
        **state,
        "corrections": (1 - betas.double() ** taken).float(),
        "learning_rate": torch.tensor(0.02),
        "betas": betas,
        "epsilon": torch.tensor(1e-3),
    }


def _scenes(rng: np.random.Generator, count: int, height: int, width: int) -> Array:
    return np.ascontiguousarray(draw_scenes(rng, count, height, width, 3).transpose(0, 3, 1, 2))

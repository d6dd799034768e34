# SPDX-License-Identifier: Apache-2.0
"""The losses of a picture and their gradient, by autograd over the whole network."""

from __future__ import annotations

import torch
from torch import Tensor

from gantk.gatys.objective import Objective, add_variation, cast, sums_in
from gantk.ops import style_loss
from gantk.stylize.schedule import Losses


def measure(objective: Objective, picture: Tensor) -> tuple[Losses, Tensor]:
    """The losses of a picture float[1, 3, H, W] and their gradient, by autograd over the whole network."""
    dtype = sums_in(objective.network)
    leaf = picture.detach().requires_grad_()
    with torch.enable_grad():
        features = objective.network(cast(leaf, objective.network))
        content = leaf.new_zeros(())
        for layer, wanted in objective.content.items():
            difference = features[layer].to(dtype) - wanted.target.to(dtype)
            content = content + difference.square().sum() * wanted.coefficient
        style = leaf.new_zeros(())
        for term in objective.styles:
            masked = [term.masked(i, features[layer]) for i, layer in enumerate(term.layers)]
            style = style + style_loss(masked, term.targets, term.coefficients).sum()
        (gradient,) = torch.autograd.grad(content + style, leaf)
    variation = add_variation(objective, picture, gradient)
    return Losses(float(content.detach()), float(style.detach()), variation), gradient

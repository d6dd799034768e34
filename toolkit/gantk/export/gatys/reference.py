# SPDX-License-Identifier: Apache-2.0
"""What PyTorch makes of a step, by autograd and its own Adam: what the graphs are held against."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from gantk.export.gatys.chain import LOSSES, MOMENTS, StepConfig
from gantk.models.vgg import Vgg19
from gantk.ops import gram_matrix, style_loss, total_variation
from gantk.runtime.runner import Array
from gantk.stylize.descent import NEXT

Arrays = dict[str, Array]
Tensors = Mapping[str, Tensor]
Features = Callable[[Tensor], Mapping[str, Tensor]]


def compute_targets(network: Vgg19, config: StepConfig, picture: Tensor) -> dict[str, Tensor]:
    """The features and Gram matrices of float[N, 3, H, W] pictures, by the names of a step's targets."""
    with torch.no_grad():
        features = network(picture)
        content = {config.targets[0]: features[config.content_layer]}
        grams = (gram_matrix(features[layer]) for layer in config.style_layers)
        return content | dict(zip(config.targets[1:], grams, strict=True))


def compute_losses(
    features_of: Features, config: StepConfig, feeds: Tensors, picture: Tensor, layer_weights: Sequence[float]
) -> dict[str, Tensor]:
    """The three losses of each picture, without their weights (see `gantk.export.gatys.graphs`)."""
    features = features_of(picture)
    difference = features[config.content_layer] - feeds[config.targets[0]]
    content = 0.5 * difference.square().sum((1, 2, 3))
    style = style_loss(
        [features[layer] for layer in config.style_layers],
        [feeds[name] for name in config.targets[1:]],
        list(layer_weights),
    )
    variation = total_variation(picture, config.variation, config.epsilon)
    return dict(zip(LOSSES, (content, style, variation), strict=True))


def compute_gradient(network: Features, config: StepConfig, feeds: Tensors) -> dict[str, Tensor]:
    """What the plain graph of a step yields."""
    picture = feeds["picture"].detach().requires_grad_()
    with torch.enable_grad():
        losses = compute_losses(network, config, feeds, picture, feeds["layer_weights"].tolist())
        (gradient,) = torch.autograd.grad(add_losses(losses, feeds), picture)
    return {"gradient": gradient, **{name: loss.detach() for name, loss in losses.items()}}


def add_losses(losses: Tensors, feeds: Tensors) -> Tensor:
    """The weighted sum of the losses of all pictures, whose gradient is each picture's own."""
    return torch.stack([feeds[name.replace("loss", "weight")] * losses[name].sum() for name in LOSSES]).sum()


def compute_adam(network: Vgg19, config: StepConfig, feeds: Tensors) -> dict[str, Tensor]:
    """What the adam graph of a step yields, by `torch.optim.Adam`; `corrections` belong to a whole step."""
    made = compute_gradient(network, config, feeds)
    picture, betas = feeds["picture"].clone(), feeds["betas"].double()
    taken = torch.log(1 - feeds["corrections"][0].double()) / torch.log(betas[0])
    rate, epsilon = float(feeds["learning_rate"]), float(feeds["epsilon"])
    optimizer = torch.optim.Adam([picture], rate, (float(betas[0]), float(betas[1])), epsilon)
    moments = [feeds[name].clone() for name in MOMENTS]
    step = taken.round().float()
    optimizer.state[picture] = {"step": step, "exp_avg": moments[0], "exp_avg_sq": moments[1]}
    picture.grad = made.pop("gradient")
    optimizer.step()
    following = {
        "picture": picture.clamp(0, 1),
        **dict(zip(MOMENTS, moments, strict=True)),
        "corrections": (1 - betas ** (taken.round() + 1)).float(),
    }
    return {**{f"{NEXT}{name}": tensor for name, tensor in following.items()}, **made}


def to_arrays(tensors: Tensors) -> Arrays:
    return {name: tensor.contiguous().numpy() for name, tensor in tensors.items()}

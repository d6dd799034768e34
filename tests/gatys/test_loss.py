# SPDX-License-Identifier: Apache-2.0
"""The losses and their gradient: against an independent float64 computation, and in tiles as in one piece."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.errors import GantkError
from gantk.gatys import tiles
from gantk.gatys.config import GatysConfig, Layers
from gantk.gatys.layers import Judge
from gantk.gatys.loss import measure
from gantk.gatys.targets import make_objective
from gantk.gatys.tiles import compute_features, compute_grams, measure_in_tiles
from gantk.models.vgg import LAYERS, Vgg19

CONTENT: Layers = (("relu2_2", 1.0), ("relu3_2", 0.5))
STYLE: Layers = (("relu1_1", 1.0), ("relu2_1", 2.0), ("relu3_2", 0.25))


@pytest.fixture(scope="module")
def network() -> Vgg19:
    torch.manual_seed(0)
    return Vgg19("relu3_2").double().requires_grad_(False)


@pytest.fixture
def judge(network: Vgg19) -> Judge:
    return Judge(network, CONTENT, STYLE, ())


def picture(seed: int, height: int = 26, width: int = 33, channels: int = 3) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.rand(1, channels, height, width, generator=rng, dtype=torch.float64)


def config(**fields: Any) -> GatysConfig:
    return GatysConfig("c.png", fields.pop("styles", ("s.png",)), **fields)


def features(network: Vgg19, given: Tensor) -> dict[str, Tensor]:
    """Written out with plain operations: no code of gantk's but the weights."""
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    now, found = (given - mean.view(3, 1, 1).double()) / std.view(3, 1, 1).double(), {}
    for layer in LAYERS[: LAYERS.index("relu3_2") + 1]:
        if layer in ("relu2_1", "relu3_1"):
            now = F.max_pool2d(now, 2)
        convolution = network.convolutions[layer]
        now = F.conv2d(now, convolution.weight, convolution.bias, padding=1).clamp(min=0)  # type: ignore[arg-type]
        found[layer] = now
    return found


def gram(layer: Tensor) -> Tensor:
    flat = layer.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


def variation(given: Tensor) -> Tensor:
    return given.diff(dim=2).abs().sum() + given.diff(dim=3).abs().sum()


def reference(network: Vgg19, given: Tensor, content: Tensor, style: Tensor, measured: str) -> list[Tensor]:
    now, wanted, painted = (features(network, some) for some in (given, content, style))
    parts = [torch.zeros((), dtype=torch.float64) for _ in range(3)]
    growth = 11.03 / float(network.convolutions["relu1_1"].weight.float().std())  # type: ignore[operator, union-attr]
    for layer, weight in CONTENT:
        squares = ((now[layer] - wanted[layer]) ** 2).sum()
        if measured == "relative":
            parts[0] = parts[0] + 2.0 * weight / 1.5 * squares / (wanted[layer] ** 2).sum()
        else:
            parts[0] = parts[0] + 2.0 * weight / 1.5 * squares / 2 * growth**2
    for layer, weight in STYLE:
        squares = ((gram(now[layer]) - gram(painted[layer])) ** 2).mean()
        if measured == "relative":
            parts[1] = parts[1] + 5.0 * weight / 3.25 * squares / (gram(painted[layer]) ** 2).mean()
        else:
            parts[1] = parts[1] + 5.0 * weight / 3.25 * squares * growth**4
    parts[2] = 0.5 * variation(given) / (given.numel() if measured == "relative" else 1)
    return parts


@pytest.mark.parametrize("measured", ["relative", "sums"])
@pytest.mark.parametrize("how", [measure, measure_in_tiles])
def test_losses_and_gradient_are_those_of_an_independent_computation(
    how: Any, measured: str, judge: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "_ELEMENTS", 64 * 10 * 10)  # Many tiles in every block.
    content, style = picture(1), picture(2, 20, 31)
    given = picture(3).requires_grad_()
    told = config(content_weight=2.0, style_weight=5.0, variation_weight=0.5, measure=measured)
    losses, gradient = how(make_objective(told, judge, content, [style]), given.detach())
    parts = reference(judge.network, given, content, style, measured)
    assert [losses.content, losses.style, losses.variation] == pytest.approx(
        [float(p.detach()) for p in parts], rel=1e-10
    )
    (wanted,) = torch.autograd.grad(sum(parts), given)  # type: ignore[arg-type]
    torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=float(wanted.abs().max()) * 1e-7)


SIZES = [(8, 8), (17, 40), (33, 19)]
ELEMENTS = [64 * 10 * 10, 64 * 16 * 16, 2**22]


@pytest.mark.parametrize(
    ("elements", "size", "pooling"),
    [
        # Every size in every tile; each pooling meets every size and every tile; on request each with each.
        pytest.param(elements, size, pooling, marks=[] if (i + j + k) % 2 else pytest.mark.slow)
        for i, elements in enumerate(ELEMENTS)
        for j, size in enumerate(SIZES)
        for k, pooling in enumerate(("max", "average"))
    ],
)
def test_tiles_of_any_size_give_what_the_whole_gives(
    pooling: str, size: tuple[int, int], elements: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    network = Vgg19("relu4_1", pooling).double().requires_grad_(False)
    judge = Judge(network, (("relu3_3", 1.0),), (("relu1_2", 1.0), ("relu2_1", 1.0), ("relu4_1", 1.0)), ())
    masks = [picture(5, *size, 1), picture(6, *size, 1)]
    told = config(styles=("a", "b"), shares=(1.0, 3.0))
    objective = make_objective(told, judge, picture(1, *size), [picture(2), picture(3, 21, 22)], masks)
    given = picture(4, *size)
    whole_losses, whole = measure(objective, given)
    monkeypatch.setattr(tiles, "_ELEMENTS", elements)
    losses, gradient = measure_in_tiles(objective, given)
    assert losses.total == pytest.approx(whole_losses.total, rel=1e-11)
    torch.testing.assert_close(gradient, whole, rtol=1e-9, atol=float(whole.abs().max()) * 1e-11)
    found = compute_features(network, given, {"relu1_2", "relu4_1"})
    for layer, values in found.items():
        torch.testing.assert_close(values, network(given)[layer])
    (first, last) = compute_grams(network, given, ("relu1_2", "relu4_1"))
    torch.testing.assert_close(first, gram(network(given)["relu1_2"]))
    torch.testing.assert_close(last, gram(network(given)["relu4_1"]))


def test_several_styles_are_one_style_with_blended_grams(judge: Judge) -> None:
    styles = [picture(2), picture(3, 30, 18)]
    told = config(styles=("a", "b"), shares=(1.0, 4.0), content_weight=0.0, variation_weight=0.0)
    objective = make_objective(told, judge, picture(1), styles)
    for layer, target in zip(objective.styles[0].layers, objective.styles[0].targets, strict=True):
        first, second = (gram(features(judge.network, style)[layer]) for style in styles)
        torch.testing.assert_close(target, 0.2 * first + 0.8 * second)


def test_a_region_is_judged_by_its_own_style_alone(judge: Judge) -> None:
    """White on the left half: what is on the right, out of reach of the convolutions, makes no difference."""
    mask = torch.zeros(1, 1, 24, 64, dtype=torch.float64)
    mask[..., :20] = 1.0
    told = config(content_weight=0.0, variation_weight=0.0)
    objective = make_objective(told, judge, picture(1, 24, 64), [picture(2)], [mask])
    given = picture(3, 24, 64)
    losses, gradient = measure(objective, given)
    assert gradient[..., :20].abs().max() > 0
    assert not gradient[..., 48:].any()
    given[..., 48:] = 0.0
    assert measure(objective, given)[0] == losses


def test_a_masked_part_of_a_style_has_the_statistics_of_that_part(judge: Judge) -> None:
    """A style that is itself in one half and black in the other, of which the first is taken."""
    style = picture(2, 24, 64)
    half = torch.zeros(1, 1, 24, 64, dtype=torch.float64)
    half[..., :32] = 1.0
    told = config(content_weight=0.0)
    masked = make_objective(told, judge, picture(1), [style], (), [half])
    plain = gram(features(judge.network, style)["relu1_1"][..., :32])
    torch.testing.assert_close(masked.styles[0].targets[0], plain)


def test_a_mask_that_vanishes_in_a_deep_layer_is_named(judge: Judge) -> None:
    mask = torch.zeros(1, 1, 26, 33, dtype=torch.float64)
    mask[..., -1] = 1.0  # The odd last column, which pooling drops.
    with pytest.raises(GantkError, match="as good as black at the size of relu2_1, 16 x 13"):
        make_objective(config(), judge, picture(1), [picture(2)], [mask])

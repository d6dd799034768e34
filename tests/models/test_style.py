# SPDX-License-Identifier: Apache-2.0
"""The feed-forward style network: any size, many styles, blended."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gantk import models
from gantk.errors import UsageError
from gantk.models.style import SMALLEST, ConditionalInstanceNorm

THREE = {"styles": ["waves", "scream", "mosaic"], "width": 4, "blocks": 2}


def make(config: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    network = models.build("style", config)
    for norm in network.modules():
        if isinstance(norm, ConditionalInstanceNorm):
            nn.init.normal_(norm.scale, 1.0, 0.3)
            nn.init.normal_(norm.offset, 0.0, 0.3)
    return network.eval().requires_grad_(False)


def pick(*shares: float) -> Tensor:
    return torch.tensor([shares], dtype=torch.float32)


@pytest.mark.parametrize("size", [(SMALLEST, SMALLEST), (13, 18), (31, 33), (64, 22)])
def test_what_comes_back_has_the_size_of_what_went_in(size: tuple[int, int]) -> None:
    network = make({"styles": ["one"], "width": 4, "blocks": 2})
    pictures = network(torch.rand(2, 3, *size))
    assert pictures.shape == (2, 3, *size)
    assert pictures.std() > 1e-3


def test_each_style_paints_another_picture_and_weights_blend_the_norms() -> None:
    network, picture = make(THREE), torch.rand(1, 3, 24, 24)
    first, second = network(picture, pick(1, 0, 0)), network(picture, pick(0, 1, 0))
    assert (first - second).abs().max() > 1e-2
    blend = network(picture, pick(0.5, 0.5, 0))
    mean = make(THREE)
    for norm in mean.modules():
        if isinstance(norm, ConditionalInstanceNorm):
            norm.scale.copy_(norm.scale[:2].mean(0).expand_as(norm.scale))
            norm.offset.copy_(norm.offset[:2].mean(0).expand_as(norm.offset))
    torch.testing.assert_close(blend, mean(picture, pick(1, 0, 0)))


def test_pictures_of_a_batch_take_their_own_styles() -> None:
    network, picture = make(THREE), torch.rand(1, 3, 16, 20)
    both = network(picture.repeat(2, 1, 1, 1), torch.cat([pick(1, 0, 0), pick(0, 0, 1)]))
    torch.testing.assert_close(both[:1], network(picture, pick(1, 0, 0)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(both[1:], network(picture, pick(0, 0, 1)), atol=1e-5, rtol=1e-4)


def test_one_style_needs_no_weights() -> None:
    one, two = (models.configure("style", {"styles": names}) for names in (["a"], ["a", "b"]))
    assert [spec.name for spec in one.inputs] == ["picture"]
    assert [str(spec) for spec in two.inputs] == [
        "picture: float32[N x 3 x H x W]", "style_weights: float32[N x 2]",
    ]  # fmt: skip
    assert models.configure("style", two.to_json()) == two


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"styles": []}, "1 to 256 different names"),
        ({"styles": ["a", "a"]}, "1 to 256 different names"),
        ({"styles": "mosaic"}, "a list of names"),
        ({"styles": [1]}, "1 to 256 different names"),
        ({"width": 0}, "width is 0"),
        ({"depth": 3}, "no 'depth'"),
    ],
)
def test_wrong_configurations_are_refused(config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        models.configure("style", config)

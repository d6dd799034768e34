# SPDX-License-Identifier: Apache-2.0
"""The network of any style: its statistics are the style's, its pictures as large as they came."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gantk import models
from gantk.errors import UsageError
from gantk.models.adain import AdaptiveInstanceNorm, Decoder, Generator


def make(layer: str) -> nn.Module:
    torch.manual_seed(0)
    return models.build("adain", {"layer": layer}).eval().requires_grad_(False)


@pytest.mark.parametrize("layer", ["relu1_1", "relu2_2", "relu3_1"])
def test_what_comes_back_has_the_size_of_what_went_in(layer: str) -> None:
    network = make(layer)
    config: Any = network.config
    sizes = [(config.smallest, config.smallest), (13, 18), (31, 33), (16, 50)]
    for height, width in sizes:
        painted = network(torch.rand(2, 3, height, width), torch.rand(2, 3, 9, 14), torch.ones(2))
        assert painted.shape == (2, 3, height, width)
        assert painted.std() > 1e-3


def test_adapted_features_have_the_statistics_of_the_style() -> None:
    torch.manual_seed(0)
    features = torch.rand(2, 5, 7, 9) * torch.tensor([1, 10, 100, 0.1, 3])[:, None, None] + 4
    style = torch.rand(2, 5, 11, 4) * torch.tensor([2, 0.5, 50, 30, 1])[:, None, None] - 3
    adapted = AdaptiveInstanceNorm()(features, style, torch.ones(2)).double()
    wanted = style.double()
    torch.testing.assert_close(adapted.mean((2, 3)), wanted.mean((2, 3)), rtol=1e-4, atol=1e-4)
    # The epsilon of the paper's code moves the deviation of the flattest channel by up to one per cent.
    got, want = (x.var((2, 3), unbiased=False).sqrt() for x in (adapted, wanted))
    torch.testing.assert_close(got, want, rtol=1e-2, atol=1e-4)
    # The pattern stays: correlation one, channel by channel.
    flat, before = adapted.flatten(2), features.double().flatten(2)
    assert torch.corrcoef(torch.stack([flat[0, 1], before[0, 1]]))[0, 1] > 0.999_999


def test_alpha_blends_features_picture_by_picture() -> None:
    torch.manual_seed(0)
    features, style = torch.rand(3, 4, 5, 6), torch.rand(3, 4, 8, 3) * 9
    adapt = AdaptiveInstanceNorm()
    full, mixed = adapt(features, style, torch.ones(3)), adapt(features, style, torch.tensor([0, 0.25, 1]))
    assert torch.equal(mixed[0], features[0])
    torch.testing.assert_close(mixed[1], 0.25 * full[1] + 0.75 * features[1])
    assert torch.equal(mixed[2], full[2])


def test_statistics_are_in_float32() -> None:
    """In half precision the squares of these features would be infinite."""
    features = (torch.rand(1, 2, 8, 8) * 900).half()
    adapted = AdaptiveInstanceNorm()(features, features.flip(3) * 2, torch.ones(1))
    assert adapted.dtype == torch.float16
    torch.testing.assert_close(adapted.float(), 2 * features.float(), rtol=5e-3, atol=1)


def test_the_decoder_mirrors_vgg() -> None:
    """As in the paper's code for relu4_1: nine convolutions, three enlargements, ReLU between."""
    decoder = Decoder("relu4_1")
    shapes = [(c.conv.in_channels, c.conv.out_channels, c.enlarge) for c in decoder.convolutions]  # type: ignore[union-attr]
    assert shapes == [
        (512, 256, False),
        *((256, 256, n == 0) for n in range(3)),
        (256, 128, False),
        (128, 128, True), (128, 64, False),
        (64, 64, True), (64, 3, False),
    ]  # fmt: skip


def test_the_decoder_computes_what_is_written() -> None:
    network = make("relu2_1")
    decoder: Any = network.decoder
    features = torch.rand(1, 128, 5, 6)
    x = features.double()
    weights = [convolution.conv for convolution in decoder.convolutions]
    for n, conv in enumerate(weights):
        if n == 1:  # Pooling lies between conv1_2 and conv2_1.
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), conv.weight.double(), conv.bias.double())
        x = x if n == len(weights) - 1 else x.clamp(min=0)
    torch.testing.assert_close(decoder(features).double(), x, rtol=1e-4, atol=1e-4)


def test_an_odd_border_is_pooled_as_if_it_were_there_twice() -> None:
    network = make("relu2_1")
    encoder: Any = network.encoder
    picture = torch.rand(1, 3, 9, 13)
    first = F.relu(encoder.convolutions["relu1_1"]((picture - encoder.mean) / encoder.std))
    second = F.relu(encoder.convolutions["relu1_2"](first))
    doubled = F.max_pool2d(F.pad(second, (0, 1, 0, 1), mode="replicate"), 2)
    wanted = F.relu(encoder.convolutions["relu2_1"](doubled))
    torch.testing.assert_close(encoder(picture)["relu2_1"], wanted)


def test_its_pictures_carry_symbols_of_their_own() -> None:
    config = models.configure("adain", {"layer": "relu3_1"})
    assert [str(spec) for spec in (*config.inputs, *config.outputs)] == [
        "picture: float32[N x 3 x H x W]",
        "style: float32[N x 3 x HS x WS]",
        "alpha: float32[N]",
        "stylized: float32[N x 3 x H x W]",
    ]
    assert models.configure("adain", config.to_json()) == config


@pytest.mark.parametrize("config", [{"layer": "relu9_1"}, {"layer": 3}, {"width": 2}])
def test_wrong_configurations_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"relu9_1|no layer 3|no 'width'"):
        models.configure("adain", config)


@pytest.mark.parametrize("layer", ["relu1_2", "relu4_1"])
def test_features_of_unit_size_begin_as_a_grey_picture_with_some_contrast(layer: str) -> None:
    decoder: Any = make(layer).decoder
    features = torch.randn(1, decoder.convolutions[0].conv.in_channels, 12, 12).abs()
    painted = decoder(features)
    assert painted.mean() == pytest.approx(0.5, abs=0.25)
    assert 0.02 < painted.std() < 0.6


def test_only_the_decoder_learns() -> None:
    network = models.build("adain", {"layer": "relu2_1"})
    assert isinstance(network, Generator)
    learning = {name.partition(".")[0] for name, value in network.named_parameters() if value.requires_grad}
    assert learning == {"decoder"}
    picture, style = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    painted: Tensor = network(picture, style, torch.ones(1))
    painted.sum().backward()
    assert network.encoder.convolutions["relu1_1"].weight.grad is None

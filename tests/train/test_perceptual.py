# SPDX-License-Identifier: Apache-2.0
"""Distances are relative and do not know sizes; layers are those asked for, or those that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from listener import Listener
from style_helpers import write_vgg
from torch import Tensor

from gantk.errors import GantkError, UsageError
from gantk.ops import gram_matrix
from gantk.train.perceptual import (
    Layers,
    choose_layers,
    content_distance,
    moments_distance,
    style_distance,
)


def relative(found: Tensor, wanted: Tensor) -> float:
    """In float64, picture by picture."""
    pairs = zip(found.double(), wanted.double(), strict=True)
    return sum(float(((f - w) ** 2).sum() / (w**2).sum()) for f, w in pairs) / len(found)


def test_distances_are_those_written() -> None:
    torch.manual_seed(0)
    found = [torch.rand(3, 5, 7, 9), torch.rand(3, 4, 3, 5) * 40]
    wanted = [torch.rand(3, 5, 6, 6), torch.rand(3, 4, 8, 2) * 90]
    assert float(content_distance(found[0], found[0] * 0.7)) == pytest.approx((0.3 / 0.7) ** 2, rel=1e-5)
    other = torch.rand(3, 5, 7, 9)
    assert float(content_distance(found[0], other)) == pytest.approx(relative(found[0], other), rel=1e-5)

    def grams(features: Tensor) -> Tensor:
        flat = features.double().flatten(2)
        return flat @ flat.mT / flat.shape[2]

    expected = sum(relative(grams(f), grams(w)) for f, w in zip(found, wanted, strict=True)) / 2
    given = style_distance(found, [gram_matrix(w) for w in wanted])
    assert float(given) == pytest.approx(expected, rel=1e-4)

    def moments(features: Tensor) -> Tensor:
        flat = features.double().flatten(2)
        return torch.cat([flat.mean(2), flat.std(2, correction=0)], 1)

    expected = sum(relative(moments(f), moments(w)) for f, w in zip(found, wanted, strict=True)) / 2
    assert float(moments_distance(found, wanted)) == pytest.approx(expected, rel=1e-4)


def test_distances_are_one_for_nothing_and_zero_for_what_is_wanted() -> None:
    wanted = torch.rand(2, 4, 6, 6)
    nothing = torch.zeros_like(wanted)
    for distance in (content_distance(nothing, wanted), style_distance([nothing], [gram_matrix(wanted)])):
        assert float(distance) == pytest.approx(1, abs=1e-5)
    assert float(content_distance(wanted, wanted)) == 0
    assert float(style_distance([wanted], [gram_matrix(wanted)])) < 1e-10
    assert float(moments_distance([wanted], [wanted])) < 1e-10


def test_style_does_not_depend_on_size_or_strength() -> None:
    found, wanted = torch.rand(1, 6, 8, 8), torch.rand(1, 6, 8, 8)
    once = style_distance([found], [gram_matrix(wanted)])
    tiled = style_distance([found.repeat(1, 1, 3, 2)], [gram_matrix(wanted)])
    strong = style_distance([found * 100], [gram_matrix(wanted * 100)])
    torch.testing.assert_close(tiled, once, rtol=1e-4, atol=0)
    torch.testing.assert_close(strong, once, rtol=1e-4, atol=0)


def test_halves_are_summed_in_float32() -> None:
    found, wanted = (torch.rand(1, 8, 64, 64) * 300).half(), (torch.rand(1, 8, 64, 64) * 300).half()
    wide = content_distance(found.float(), wanted.float())
    torch.testing.assert_close(content_distance(found, wanted), wide)
    assert torch.isfinite(style_distance([found], [gram_matrix(wanted)]))
    assert torch.isfinite(moments_distance([found], [wanted]))


def test_plain_features_have_a_gradient() -> None:
    """A plain picture has no deviation, whose root would have an infinite slope."""
    plain = torch.full((1, 3, 4, 4), 0.5, requires_grad=True)
    moments_distance([plain], [torch.rand(1, 3, 4, 4)]).backward()
    assert plain.grad is not None and torch.isfinite(plain.grad).all()


def test_layers_end_where_the_weights_do(tmp_path: Path) -> None:
    listener, path = Listener(), str(write_vgg(tmp_path / "vgg.safetensors"))
    assert choose_layers(path, None, None, listener) == Layers("relu2_2", ("relu1_2", "relu2_2"))
    assert "end at relu2_2: style is taken from relu1_2, relu2_2 and content from relu2_2" in listener.said[0]
    assert "relu3_3, relu4_3 too" in listener.said[0]
    chosen = choose_layers(path, "relu2_1", ("relu2_2", "relu1_1"), listener)
    assert chosen == Layers("relu2_1", ("relu1_1", "relu2_2"))
    assert chosen.last == "relu2_2"
    assert len(listener.said) == 1


def test_wrong_layers_are_named(tmp_path: Path) -> None:
    path = str(write_vgg(tmp_path / "vgg.safetensors"))
    with pytest.raises(UsageError, match="no layer 'conv1_1'"):
        choose_layers(path, "conv1_1", None, Listener())
    with pytest.raises(UsageError, match="no layer 'relu1_3'"):
        choose_layers(path, None, ("relu1_1", "relu1_3"), Listener())
    (tmp_path / "text.pth").write_text("hello")
    with pytest.raises(GantkError, match=r"`text\.pth`"):
        choose_layers(str(tmp_path / "text.pth"), None, None, Listener())

# SPDX-License-Identifier: Apache-2.0
"""The networks are those of the paper and the lesson, and can be exported."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import nn

from gantk import models
from gantk.errors import UsageError

CONFIGS = [
    ("dcgan", {"size": size, "channels": channels, "width": 4})
    for size, channels in ((28, 1), (32, 3), (64, 1), (128, 3))
] + [("mlp", {"size": 28, "channels": 1})]


def of_kind(module: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [child for child in module.modules() if isinstance(child, kind)]


def test_width_128_at_64_pixels_is_the_papers_generator() -> None:
    generator = models.build("dcgan", {"size": 64, "channels": 3, "width": 128})
    layers = of_kind(generator, nn.ConvTranspose2d)
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == [
        (1024, 512), (512, 256), (256, 128), (128, 3),
    ]  # fmt: skip
    assert of_kind(generator, nn.Linear)[0].out_features == 1024 * 4 * 4


def test_the_discriminator_mirrors_it_without_norm_on_its_first_layer() -> None:
    discriminator = models.build_discriminator("dcgan", {"size": 64, "channels": 3, "width": 8})
    layers = of_kind(discriminator, nn.Conv2d)
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == [
        (3, 8),
        (8, 16),
        (16, 32),
        (32, 64),
    ]
    assert [norm.num_features for norm in of_kind(discriminator, nn.BatchNorm2d)] == [16, 32, 64]
    assert {leaky.negative_slope for leaky in of_kind(discriminator, nn.LeakyReLU)} == {0.2}


def test_28_pixels_grow_from_7() -> None:
    generator = models.build("dcgan", {"size": 28, "channels": 1})
    assert of_kind(generator, nn.Linear)[0].out_features == 128 * 7 * 7  # As in the lesson.
    assert [layer.out_channels for layer in of_kind(generator, nn.ConvTranspose2d)] == [64, 1]


def test_the_fully_connected_pair_is_the_lessons() -> None:
    generator = models.build("mlp", {"size": 28, "channels": 1})
    discriminator = models.build_discriminator("mlp", {"size": 28, "channels": 1})
    assert [layer.out_features for layer in of_kind(generator, nn.Linear)] == [256, 512, 1024, 784]
    assert [layer.in_features for layer in of_kind(discriminator, nn.Linear)] == [784, 512, 256]
    assert of_kind(discriminator, nn.Dropout)


def test_weights_begin_as_the_paper_says() -> None:
    torch.manual_seed(0)
    generator = models.build("dcgan", {"size": 32, "channels": 3, "width": 64})
    weights = of_kind(generator, nn.ConvTranspose2d)[0].weight
    norm = of_kind(generator, nn.BatchNorm1d)[0].weight
    assert abs(weights.mean().item()) < 1e-3
    assert weights.std().item() == pytest.approx(0.02, rel=0.02)
    assert norm.mean().item() == pytest.approx(1.0, abs=0.01)
    assert norm.std().item() == pytest.approx(0.02, rel=0.1)


@pytest.mark.parametrize(("family", "config"), CONFIGS)
def test_pictures_are_in_range_and_differ(family: str, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    generator = models.build(family, config)
    pictures = generator(torch.randn(3, 100))
    assert pictures.shape == (3, config["channels"], config["size"], config["size"])
    assert pictures.abs().max() <= 1
    assert (pictures[0] - pictures[1]).abs().max() > 1e-3
    assert models.build_discriminator(family, config)(pictures).shape == (3,)


def test_a_label_is_a_unit_vector_beside_the_latents() -> None:
    """The generator with classes is one without, whose latents are longer."""
    torch.manual_seed(0)
    small = {"size": 28, "channels": 1, "width": 2}
    generator = models.build("dcgan", {**small, "latent_size": 5, "classes": ["a", "b", "c"]}).eval()
    longer = models.build("dcgan", {**small, "latent_size": 8}).eval()
    weights = generator.state_dict()
    columns = weights.pop("class_offsets.weight").T
    weights["project.0.weight"] = torch.cat([weights["project.0.weight"], columns], dim=1)
    longer.load_state_dict(weights)
    latent, label = torch.randn(4, 5), torch.tensor([0, 2, 1, 2])
    torch.testing.assert_close(
        generator(latent, label), longer(torch.cat([latent, torch.eye(3)[label]], dim=1))
    )


def test_the_discriminator_projects_features_on_the_vector_of_a_class() -> None:
    torch.manual_seed(0)
    config = {"size": 28, "channels": 1, "width": 2, "classes": ["a", "b"]}
    discriminator = models.build_discriminator("dcgan", config).eval()
    pictures, label = torch.randn(3, 1, 28, 28), torch.tensor([1, 0, 1])
    features = discriminator.shrink(pictures).flatten(1)
    products = torch.einsum("nf,nf->n", features, discriminator.class_vectors.weight[label])
    plain = discriminator.judge(discriminator.shrink(pictures))
    torch.testing.assert_close(discriminator(pictures, label) - plain, products, atol=1e-6, rtol=1e-4)
    assert products.abs().min() > 1e-5


@pytest.mark.parametrize(("family", "config"), [CONFIGS[0], CONFIGS[2], CONFIGS[4]])
def test_torch_export_keeps_the_batch_dynamic(family: str, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    generator = models.build(family, config).eval()
    batch = torch.export.Dim("N")
    exported = torch.export.export(generator, (torch.randn(2, 100),), dynamic_shapes={"latent": {0: batch}})
    latent = torch.randn(5, 100)
    torch.testing.assert_close(exported.module()(latent), generator(latent))


@pytest.mark.parametrize(("family", "config"), [CONFIGS[2], CONFIGS[4]])
def test_a_half_precision_copy_agrees(family: str, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    generator = models.build(family, config).eval()
    half = deepcopy(generator).to(torch.float16)
    latent = torch.randn(2, 100)
    torch.testing.assert_close(half(latent.half()).float(), generator(latent), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("family", "config", "words"),
    [
        ("gan", {}, "dcgan, mlp"),
        ("dcgan", {"size": 48}, "28, 32, 64, 128"),
        ("dcgan", {"size": "64"}, "28, 32, 64, 128"),
        ("dcgan", {"channels": 2}, "1, 3"),
        ("dcgan", {"width": 10**9}, "1 to 512"),
        ("dcgan", {"latent_size": True}, "1 to 4096"),
        ("dcgan", {"depth": 3}, "'depth'; it has size, channels, latent_size, width, classes"),
        ("dcgan", {"classes": ["one"]}, "2 to 1000 different names"),
        ("dcgan", {"classes": ["one", "one"]}, "2 to 1000 different names"),
        ("dcgan", {"classes": [1, 2]}, "2 to 1000 different names"),
        ("dcgan", {"classes": "ab"}, "2 to 1000 different names"),
        ("mlp", {"size": 4}, "8 to 128"),
        ("mlp", {"width": 64}, "'width'"),
    ],
)
def test_what_is_not_allowed_is_named(family: str, config: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        models.build(family, config)


def test_a_configuration_survives_json() -> None:
    for classes in ([], ["left", "right"]):
        config = models.configure("dcgan", {"size": 32, "channels": 1, "width": 16, "classes": classes})
        assert models.configure("dcgan", json.loads(json.dumps(config.to_json()))) == config

# SPDX-License-Identifier: Apache-2.0
"""Random pictures: like photographs to a network, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from gantk.runtime.arrays import random_array, random_feeds
from gantk.runtime.scenes import draw_scenes
from gantk.tensors import TensorSpec


def draw(height: int, width: int, count: int = 2, channels: int = 3, seed: int = 0) -> np.ndarray:
    return draw_scenes(np.random.default_rng(seed), count, height, width, channels)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (37, 61), (128, 96)])
def test_any_size_is_drawn_and_every_picture_is_another(height: int, width: int) -> None:
    scenes = draw(height, width)
    assert scenes.shape == (2, height, width, 3)
    assert scenes.dtype == np.float32
    assert 0.0 <= scenes.min() <= scenes.max() <= 1.0
    assert not np.array_equal(scenes[0], scenes[1])
    np.testing.assert_array_equal(scenes, draw(height, width))
    assert not np.array_equal(scenes, draw(height, width, seed=1))


def test_neighbours_are_alike_colours_are_rich_and_edges_sharp() -> None:
    scenes = draw(128, 160, count=8).astype(np.float64)
    steps = np.abs(np.diff(scenes, axis=2))
    # Of white noise the median step is about as large as the deviation.
    assert np.median(steps) < 0.2 * scenes.std()
    assert steps.max() > 0.3
    assert scenes.std() > 0.12
    differences = scenes[..., 0] - scenes[..., 1]
    assert differences.std() > 0.1, "channels must differ, or a swap of two would not be seen"
    mirrored = np.abs(scenes - scenes[:, :, ::-1]).mean()
    assert mirrored > 0.1, "a mirrored picture must be another one"


def test_inputs_that_are_pictures_are_scenes_in_their_range_and_layout() -> None:
    pixels = TensorSpec("picture", "uint8", ("N", "H", "W", 3), (0.0, 255.0), "NHWC")
    floats = TensorSpec("picture", "float32", ("N", 3, "H", "W"), (-1.0, 1.0), "NCHW")
    a, b = random_array(pixels, (2, 20, 30, 3)), random_array(floats, (2, 3, 20, 30))
    np.testing.assert_allclose(a / 127.5 - 1, b.transpose(0, 2, 3, 1), atol=0.5 / 127.5 + 1e-6)


def test_weights_have_the_sum_one() -> None:
    spec = TensorSpec("style_weights", "float32", ("N", 5), (0.0, 1.0), "NC")
    weights = random_array(spec, (40, 5))
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
    assert weights.min() >= 0.0
    assert weights.max(1).mean() > 0.5, "some styles must stand out"


def test_a_size_that_was_not_said_is_that_of_a_picture() -> None:
    spec = TensorSpec("picture", "uint8", ("N", "H", "W", 1), (0.0, 255.0), "NHWC")
    other = TensorSpec("latent", "float32", ("N", "L"), None, "NC")
    feeds = random_feeds([spec, other], {"W": 24})
    assert feeds["picture"].shape == (1, 512, 24, 1)
    assert feeds["latent"].shape == (1, 1)

# SPDX-License-Identifier: Apache-2.0
"""Pictures at random that look like photographs to a network: smooth places, fine grain and sharp edges.

White noise would not do: a network that blurs or enlarges makes grey of it, whatever else it does wrong.
"""

from __future__ import annotations

import math

import numpy as np

from gantk.runtime.runner import Array

SHAPES = 6
"""Discs and boxes in a picture."""

GRAIN = 0.02
"""The standard deviation of the noise of each value."""


def draw_scenes(rng: np.random.Generator, count: int, height: int, width: int, channels: int) -> Array:
    """Draw pictures.

    Noise of every scale whose amplitude grows with it, as in photographs (Field, J. Opt. Soc. Am. A 4, 1987),
    with discs and boxes of one colour in front, and some grain.

    Returns:
        float32[count, height, width, channels] in [0, 1], the same for the same state of `rng`.
    """
    scenes = np.empty((count, height, width, channels), np.float32)
    for scene in scenes:
        scene[:] = _clouds(rng, height, width, channels)
        for _ in range(SHAPES):
            _put_shape(rng, scene)
    scenes += rng.standard_normal(scenes.shape, np.float32) * np.float32(GRAIN)
    return scenes.clip(0.0, 1.0)


def _clouds(rng: np.random.Generator, height: int, width: int, channels: int) -> Array:
    """A sum of enlarged noise from the coarsest scale to that of a few pixels."""
    clouds = np.full((height, width, channels), 0.5, np.float32)
    cell, amplitude = float(max(height, width)), 0.35
    while cell >= 3.0:
        rows, columns = math.ceil(height / cell) + 1, math.ceil(width / cell) + 1
        grid = rng.uniform(-amplitude, amplitude, (rows, columns, channels)).astype(np.float32)
        clouds += _enlarge(_enlarge(grid, height, cell).transpose(1, 0, 2), width, cell).transpose(1, 0, 2)
        cell, amplitude = cell / 2.0, amplitude / 1.6
    return clouds


def _enlarge(grid: Array, size: int, cell: float) -> Array:
    """Linear interpolation of the first axis to `size` rows, `cell` of them between two of the grid."""
    places = np.arange(size) / cell
    before = places.astype(np.int64)
    share = (places - before).astype(np.float32)[:, None, None]
    enlarged: Array = grid[before] * (1.0 - share) + grid[before + 1] * share
    return enlarged


def _put_shape(rng: np.random.Generator, scene: Array) -> None:
    height, width, channels = scene.shape
    y, x = rng.uniform(0, height), rng.uniform(0, width)
    radius = rng.uniform(0.05, 0.25) * max(height, width)
    colour = rng.uniform(0.0, 1.0, channels)
    rows = np.abs(np.arange(height) - y)[:, None]
    columns = np.abs(np.arange(width) - x)[None]
    is_disc = rng.random() < 0.5
    inside = rows**2 + columns**2 < radius**2 if is_disc else np.maximum(rows, columns) < radius
    scene[inside] = colour

# SPDX-License-Identifier: Apache-2.0
"""A small picture set that gantk draws itself: flowers, no two alike."""

from __future__ import annotations

import colorsys
import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

from gantk.files import named_errors

_SUPERSAMPLING = 4  # Drawn this many times larger, then reduced: the drawing routines do not smooth edges.

Colour = tuple[int, int, int]


def draw_pictures(folder: Path, count: int, size: int, seed: int = 0) -> None:
    """Draw flowers as PNG files.

    Args:
        folder: Made if absent.
        count: How many.
        size: Height and width in pixels.
        seed: The same seed draws the same flowers.

    Raises:
        GantkError: The folder cannot be written.
    """
    chance = random.Random(seed)
    with named_errors(folder, "write"):
        folder.mkdir(parents=True, exist_ok=True)
        for index in range(count):
            draw_flower(size, chance).save(folder / f"flower-{index:04d}.png")


def draw_flower(size: int, chance: random.Random) -> Image.Image:
    """One flower on a meadow under the sky: RGB, `size` x `size` pixels."""
    side = size * _SUPERSAMPLING
    picture = _background(side, chance)
    draw = ImageDraw.Draw(picture)
    x, y = side * chance.uniform(0.44, 0.56), side * chance.uniform(0.38, 0.46)
    radius = side * chance.uniform(0.26, 0.34)
    _draw_stem(draw, side, (x, y), chance)
    _draw_blossom(draw, (x, y), radius, chance)
    return picture.resize((size, size), Image.Resampling.LANCZOS)


def _background(side: int, chance: random.Random) -> Image.Image:
    """A vertical gradient, from sky to meadow."""
    sky = _colour(chance.uniform(0.52, 0.62), chance.uniform(0.15, 0.45), chance.uniform(0.85, 1.0))
    meadow = _colour(chance.uniform(0.22, 0.34), chance.uniform(0.35, 0.6), chance.uniform(0.55, 0.8))
    gradient = Image.linear_gradient("L").resize((side, side))
    return Image.composite(
        Image.new("RGB", (side, side), meadow), Image.new("RGB", (side, side), sky), gradient
    )


def _draw_stem(draw: ImageDraw.ImageDraw, side: int, top: tuple[float, float], chance: random.Random) -> None:
    green = _colour(chance.uniform(0.27, 0.36), 0.75, chance.uniform(0.3, 0.5))
    foot = (top[0] + side * chance.uniform(-0.08, 0.08), side)
    draw.line([top, foot], fill=green, width=side // 18)
    for direction in (-1, 1):
        middle = (_between(top[0], foot[0], 0.7), _between(top[1], foot[1], 0.7))
        leaf = _petal(
            middle, side * chance.uniform(0.2, 0.28), side * 0.07, math.radians(90 - direction * 55)
        )
        draw.polygon(leaf, fill=green)


def _draw_blossom(
    draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, chance: random.Random
) -> None:
    hue = chance.choice((0.0, 0.08, 0.13, 0.78, 0.88, 0.95)) + chance.uniform(-0.02, 0.02)
    saturation, value = chance.uniform(0.55, 0.95), chance.uniform(0.85, 1.0)
    petals = chance.randint(5, 8)
    turn = chance.uniform(0, 2 * math.pi)
    for index in range(petals):
        shade = _colour(hue, saturation, value * (0.86 if index % 2 else 1.0))
        angle = turn + 2 * math.pi * index / petals
        draw.polygon(_petal(centre, radius, 2.2 * radius / petals, angle), fill=shade)
    heart = radius * chance.uniform(0.22, 0.32)
    box = (centre[0] - heart, centre[1] - heart, centre[0] + heart, centre[1] + heart)
    draw.ellipse(box, fill=_colour(chance.uniform(0.08, 0.15), 0.9, chance.uniform(0.6, 0.95)))


def _petal(foot: tuple[float, float], length: float, width: float, angle: float) -> list[tuple[float, float]]:
    """The outline of a petal or leaf that grows from `foot` in the direction `angle`, in radians."""
    outline = []
    for step in range(33):
        around = 2 * math.pi * step / 32
        along = length * (1 - math.cos(around)) / 2
        across = width * math.sin(around) * (0.55 + 0.45 * along / length)
        outline.append(
            (
                foot[0] + along * math.cos(angle) - across * math.sin(angle),
                foot[1] + along * math.sin(angle) + across * math.cos(angle),
            )
        )
    return outline


def _colour(hue: float, saturation: float, value: float) -> Colour:
    red, green, blue = colorsys.hsv_to_rgb(hue % 1.0, saturation, value)
    return round(255 * red), round(255 * green), round(255 * blue)


def _between(start: float, end: float, share: float) -> float:
    return start + (end - start) * share

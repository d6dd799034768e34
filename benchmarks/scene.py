# SPDX-License-Identifier: Apache-2.0
"""The README's stylised pictures: a scene that is drawn here, in the style of paintings whose rights have run out.

    python benchmarks/scene.py --vgg VGG19.pth --wave shipwreck.jpg --night starry_night.jpg

`--wave` makes docs/stylized-from-noise.png, `--night` makes docs/stylized-from-content.png. The paintings are not
kept here; those in docs are Turner's "The Shipwreck of the Minotaur" and van Gogh's "The Starry Night", by weights of
VGG-19 that end at relu3_4.
"""

from __future__ import annotations

import argparse
import math
import random
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

from gantk.cli.main import main as gantk

DOCS = Path(__file__).resolve().parents[1] / "docs"
_SUPERSAMPLING = 3  # The drawing routines do not smooth edges.

Colour = tuple[int, int, int]


def draw_scene(width: int, height: int, seed: int = 0) -> Image.Image:
    """A village on a lake under mountains, in the evening."""
    chance = random.Random(seed)
    size = (width * _SUPERSAMPLING, height * _SUPERSAMPLING)
    picture = _gradient(size, (86, 130, 200), (250, 214, 165))
    draw = ImageDraw.Draw(picture)
    shore = 0.62 * size[1]
    sun = (0.72 * size[0], 0.3 * size[1], 0.06 * size[0])
    draw.ellipse([sun[0] - sun[2], sun[1] - sun[2], sun[0] + sun[2], sun[1] + sun[2]], fill=(255, 244, 214))
    _draw_ridge(draw, size, 0.40, 0.16, (118, 126, 168), chance)
    _draw_ridge(draw, size, 0.50, 0.10, (70, 96, 110), chance)
    _draw_ridge(draw, size, 0.585, 0.04, (62, 98, 66), chance)
    for index in range(7):
        _draw_house(
            draw, size[0] * (0.08 + 0.085 * index), shore, size[0] * chance.uniform(0.05, 0.075), chance
        )
    _draw_tower(draw, size[0] * 0.47, shore, size[0] * 0.036)
    for place in (0.03, 0.70, 0.80, 0.88, 0.97):
        _draw_tree(draw, size[0] * place, shore, size[1] * chance.uniform(0.10, 0.2), chance)
    _reflect(picture, round(shore))
    _draw_bank(ImageDraw.Draw(picture), size, chance)
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _gradient(size: tuple[int, int], top: Colour, bottom: Colour) -> Image.Image:
    mask = Image.linear_gradient("L").resize(size)
    return Image.composite(Image.new("RGB", size, bottom), Image.new("RGB", size, top), mask)


def _draw_ridge(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    base: float,
    rise: float,
    fill: Colour,
    chance: random.Random,
) -> None:
    waves = [
        (chance.uniform(0, 6.3), chance.uniform(0.6, 1.4) * 2**octave, 0.55**octave) for octave in range(6)
    ]
    outline = [(0.0, float(size[1]))]
    for x in range(0, size[0] + 1, 4):
        lift = sum(part * math.sin(turn + 6.3 * rate * x / size[0]) for turn, rate, part in waves)
        outline.append((x, size[1] * (base - rise * lift / 2)))
    draw.polygon([*outline, (size[0], size[1])], fill=fill)


def _draw_house(
    draw: ImageDraw.ImageDraw, x: float, foot: float, width: float, chance: random.Random
) -> None:
    wall = chance.choice([(236, 222, 196), (214, 176, 132), (244, 240, 228), (226, 196, 120)])
    roof = chance.choice([(168, 64, 44), (140, 52, 52), (112, 66, 54)])
    top = foot - width * chance.uniform(0.8, 1.3)
    draw.rectangle([x, top, x + width, foot], fill=wall)
    draw.polygon(
        [(x - width * 0.08, top), (x + width / 2, top - width * 0.6), (x + width * 1.08, top)], fill=roof
    )
    for row in range(2):
        for column in range(3):
            left, up = x + width * (0.14 + 0.28 * column), top + width * (0.14 + 0.36 * row)
            lit = (255, 226, 120) if chance.random() < 0.5 else (58, 66, 88)
            draw.rectangle([left, up, left + width * 0.15, up + width * 0.2], fill=lit)


def _draw_tower(draw: ImageDraw.ImageDraw, x: float, foot: float, width: float) -> None:
    top = foot - 4.2 * width
    draw.rectangle([x, top, x + width, foot], fill=(206, 190, 170))
    draw.polygon(
        [(x - width * 0.1, top), (x + width / 2, top - 2 * width), (x + width * 1.1, top)], fill=(74, 86, 100)
    )
    draw.ellipse(
        [x + width * 0.25, top + width * 0.3, x + width * 0.75, top + width * 0.8], fill=(250, 244, 220)
    )


def _draw_tree(
    draw: ImageDraw.ImageDraw, x: float, foot: float, height: float, chance: random.Random
) -> None:
    draw.rectangle([x - height * 0.03, foot - height * 0.4, x + height * 0.03, foot], fill=(74, 52, 38))
    for _ in range(60):
        across, up = chance.gauss(0, 0.14) * height, chance.uniform(0.3, 1.0) * height
        radius = height * chance.uniform(0.04, 0.1) * (1.3 - up / height)
        shade = chance.randint(-22, 26)
        box = [x + across - radius, foot - up - radius, x + across + radius, foot - up + radius]
        draw.ellipse(box, fill=(52 + shade, 92 + shade, 46 + shade // 2))


def _reflect(picture: Image.Image, shore: int) -> None:
    """Put a dimmed, rippled mirror image of what is above the shore below it."""
    width, height = picture.size
    depth = height - shore
    mirror = picture.crop((0, shore - depth, width, shore)).transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    mirror = Image.blend(
        mirror.filter(ImageFilter.GaussianBlur(3)), Image.new("RGB", mirror.size, (48, 78, 118)), 0.35
    )
    for row in range(depth):
        sway = round(0.004 * width * math.sin(row * 0.11) * (0.3 + row / depth))
        picture.paste(mirror.crop((0, row, width, row + 1)), (sway, shore + row))


def _draw_bank(draw: ImageDraw.ImageDraw, size: tuple[int, int], chance: random.Random) -> None:
    """Grass and flowers on the near bank."""
    _draw_ridge(draw, size, 0.9, 0.05, (56, 88, 44), chance)
    for _ in range(900):
        x, y = chance.uniform(0, size[0]), size[1] * chance.uniform(0.88, 1.02)
        shade = chance.randint(-18, 40)
        draw.line(
            [x, y, x + chance.gauss(0, 9), y - chance.uniform(14, 46)],
            fill=(60 + shade, 104 + shade, 48),
            width=3,
        )
    for _ in range(70):
        x, y, radius = chance.uniform(0, size[0]), size[1] * chance.uniform(0.87, 0.99), chance.uniform(4, 9)
        fill = chance.choice([(214, 62, 60), (238, 196, 70), (236, 232, 240), (150, 84, 170)])
        draw.ellipse([x - radius, y - radius, x + radius, y + radius], fill=fill)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vgg", type=Path, required=True)
    parser.add_argument("--wave", type=Path)
    parser.add_argument("--night", type=Path)
    chosen = parser.parse_args()
    for style, name, init in (
        (chosen.wave, "stylized-from-noise", "noise"),
        (chosen.night, "stylized-from-content", "content"),
    ):
        if style is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            scene = Path(folder) / "scene.png"
            draw_scene(384, 256).save(scene)
            curves = Path(folder) / "losses.png"
            gantk(
                ["stylize", str(scene), "--style", str(style), "--vgg", str(chosen.vgg), "--size", "384",
                 "--init", init, "-o", str(DOCS / f"{name}.png"), "--curves", str(curves), "--force"]
            )  # fmt: skip


if __name__ == "__main__":
    main()

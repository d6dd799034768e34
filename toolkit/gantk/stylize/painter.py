# SPDX-License-Identifier: Apache-2.0
"""One way to paint any picture: whole where it fits, in strips where it does not."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from gantk.bundle import MANIFEST
from gantk.files import read_bytes
from gantk.runtime.pictures import Pixels
from gantk.stylize.large import MEMORY_BYTES, LargePainter, Progress
from gantk.stylize.network import Look, StyleNetwork
from gantk.stylize.pictures import QUALITY, Picture, keep_colors

PIXEL_BYTES = 1150
"""What a style network of usual width takes of memory for each pixel of a picture that it paints whole."""


@dataclass(frozen=True)
class InStrips:
    """A picture that was painted in strips.

    Args:
        width: In pixels.
        height: Likewise.
        distance_db: On the picture reduced, strips against the network run whole: PSNR. Measured on the first
            picture alone.
    """

    width: int
    height: int
    distance_db: float | None

    def __str__(self) -> str:
        text = (
            f"{self.width} x {self.height} pixels, painted in strips with the statistics of the whole picture"
        )
        if self.distance_db is None:
            return text
        return f"{text}; on the picture reduced that is {self.distance_db:.1f} dB from the network run whole"


@dataclass
class Painter:
    """A style network, and all that decides how pictures look.

    Args:
        network: The network.
        look: The style.
        size: The longest side to reduce pictures to, in pixels.
        colors: Keep the colours of the pictures.
        quality: Of JPEG and WebP outputs, 1 to 100.
        memory_bytes: What to stay within, about; larger pictures are painted in strips.
        strips_above: The number of pixels from which pictures are painted in strips whatever the memory.
        progress: Told after each strip of a picture that is painted in strips.
        in_strips: What was painted in strips.
    """

    network: StyleNetwork
    look: Look
    size: int | None = None
    colors: bool = False
    quality: int = QUALITY
    memory_bytes: int = MEMORY_BYTES
    strips_above: int | None = None
    progress: Progress | None = None
    in_strips: list[InStrips] = field(default_factory=list)
    _large: LargePainter | None = field(default=None, init=False, repr=False)

    def paint(self, picture: Picture) -> Picture:
        """Stylise one picture; its transparency, profile and camera data stay.

        Raises:
            GantkError: The backend failed, or the picture is too large and the network does not run in strips.
        """
        return self.paint_all([picture])[0]

    def paint_all(self, pictures: Sequence[Picture]) -> list[Picture]:
        """Stylise pictures of one size together."""
        height, width = pictures[0].pixels.shape[:2]
        if self.is_large(height, width):
            painted = [self._paint_large(picture.pixels) for picture in pictures]
        else:
            painted = list(self.network.paint(np.stack([each.pixels for each in pictures]), self.look))
        return [self._finished(p, picture) for p, picture in zip(painted, pictures, strict=True)]

    def is_large(self, height: int, width: int) -> bool:
        """Whether a picture of a size is painted in strips."""
        limit = self.memory_bytes // PIXEL_BYTES
        if self.strips_above is not None:
            limit = min(limit, self.strips_above)
        return height * width > limit

    @property
    def settings(self) -> dict[str, Any]:
        """What decides how the outputs look, as JSON; the same for the same outputs."""
        style = self.look.picture
        return {
            "model": _fingerprint(self.network.path),
            "weights": None if self.look.weights is None else list(self.look.weights),
            "style": None if style is None else hashlib.sha256(style.tobytes()).hexdigest()[:16],
            "alpha": self.look.alpha,
            "size": self.size,
            "colors": self.colors,
            "quality": self.quality,
            "precision": self.network.runner.precision,
        }

    def _paint_large(self, pixels: Pixels) -> Pixels:
        if self._large is None:
            self._large = LargePainter(self.network, self.memory_bytes)
        height, width = pixels.shape[:2]
        painted = self._large.paint(pixels, self.look, self.progress).pixels
        distance_db = None if self.in_strips else self._large.distance_db(pixels, self.look)
        self.in_strips.append(InStrips(width, height, distance_db))
        return painted

    def _finished(self, painted: Pixels, picture: Picture) -> Picture:
        return replace(picture, pixels=keep_colors(painted, picture.pixels) if self.colors else painted)


def _fingerprint(path: Path) -> str:
    """Of a bundle's manifest, which holds the hashes of its files, or of an ONNX file."""
    return hashlib.sha256(read_bytes(path / MANIFEST if path.is_dir() else path)).hexdigest()[:16]

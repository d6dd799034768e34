# SPDX-License-Identifier: Apache-2.0
"""Sizes of a network's inputs that follow from those of others."""

from __future__ import annotations

import re
from dataclasses import dataclass

from gantk.bundle import STEP_FAMILY, Manifest


@dataclass(frozen=True)
class Follows:
    """A size that follows from another, as that of features does from the picture's.

    Args:
        source: The other's symbol.
        poolings: How often it is halved, rounded down.
    """

    source: str
    poolings: int

    def of(self, size: int) -> int:
        return size >> self.poolings


def follows(manifest: Manifest) -> dict[str, Follows]:
    """What follows from other sizes in a network: of an exported step the sides of its content's features."""
    layer = re.fullmatch(r"relu([1-5])_[1-4]", str(manifest.config.get("content_layer")))
    if manifest.family != STEP_FAMILY or layer is None:
        return {}
    poolings = int(layer[1]) - 1  # relu4_2 lies behind three.
    return {"h": Follows("H", poolings), "w": Follows("W", poolings)}

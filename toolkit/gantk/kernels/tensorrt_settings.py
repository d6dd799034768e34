# SPDX-License-Identifier: Apache-2.0
"""What a node of gantk's TensorRT plugins is told, as the one attribute that all of TensorRT's releases hand on alike.

Numbers do not reach Python where TensorRT is 10.16 and NumPy 2.4 or later, and texts come with the zero by which
TensorRT's parser ends them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

ATTRIBUTE = "settings"


@dataclass(frozen=True)
class Settings:
    """What all plugins are told.

    Args:
        target: The PTX that the engine takes, e.g. ``compute_80``.
    """

    target: str

    def text(self) -> str:
        """For the attribute of a node."""
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, text: str) -> Self:
        """What a plugin was given.

        Raises:
            ValueError: It is no text of such settings.
        """
        return cls(**json.loads(text.rstrip("\0")))


@dataclass(frozen=True)
class GramSettings(Settings):
    """A Gram matrix.

    Args:
        math: How partial sums are made, of `gantk.kernels.tensorrt_source.MATHS`.
        tile: Rows and columns of a tile.
        splits: The slices that places are cut into, or fewer of few places.
        groups: Of places, in which a block of the reduction sums: see `PATCH_SUMS`.
        scale: Of the sums; 0 stands for 1 / K, of K places.
    """

    math: str
    tile: int
    splits: int
    groups: int
    scale: float


@dataclass(frozen=True)
class VariationSettings(Settings):
    """Total variation.

    Args:
        kind: Of `gantk.kernels.variation_plan.KINDS`.
        epsilon: Under the root of the isotropic kind.
        rows: Of a block.
        packed: Whether rows are read in packs of 16 bytes.
    """

    kind: str
    epsilon: float
    rows: int
    packed: bool

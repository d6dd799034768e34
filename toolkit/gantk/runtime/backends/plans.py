# SPDX-License-Identifier: Apache-2.0
"""Which of an engine's profiles serves some input shapes, and what is kept for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gantk.bundle import Profile
from gantk.errors import GantkError
from gantk.runtime.runner import numpy_dtype
from gantk.tensors import TensorSpec

LIMIT = 16
"""How many shapes' graphs are kept."""

Shape = tuple[int, ...]


@dataclass
class Plan:
    """What a set of input shapes comes to.

    Args:
        profile: The index of the profile that serves them.
        shapes: Of every input and output; of an output whose size the run tells, with sides below 0.
        runs: How often it ran.
        graph: The captured work, from the second run on.
        captures: Whether it has not been found that it cannot be captured.
    """

    profile: int
    shapes: dict[str, Shape]
    runs: int = 0
    graph: Any = None
    captures: bool = True

    def size_bytes(self, spec: TensorSpec) -> int:
        """Of an input or output of these shapes."""
        return math.prod(self.shapes[spec.name]) * numpy_dtype(spec).itemsize


def choose(profiles: Sequence[Profile], shapes: Mapping[str, Shape], where: str) -> int:
    """The index of the first profile that serves the shapes.

    Args:
        profiles: As the manifest has them, in the engine's order.
        shapes: Of the inputs.
        where: The engine's name, for errors.

    Raises:
        GantkError: None does: the ranges are told.
    """
    for index, profile in enumerate(profiles):
        if all(served.holds(shapes[name]) for name, served in profile.items()):
            return index
    asked = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items())
    served = " or ".join(
        ", ".join(f"{name} {_span(shapes.min, shapes.max)}" for name, shapes in profile.items())
        for profile in profiles
    )
    raise GantkError(
        f"`{where}` serves {served}; asked for is {asked}",
        where=where,
        hint="gantk export BUNDLE --to ... --min NAME=... --max NAME=... builds for other shapes",
    )


def _span(low: Shape, high: Shape) -> str:
    """E.g. ``1..4 x 3 x 64..1024``."""
    return " x ".join(str(a) if a == b else f"{a}..{b}" for a, b in zip(low, high, strict=True)) or "a number"

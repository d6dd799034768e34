# SPDX-License-Identifier: Apache-2.0
"""What is kept for input shapes that come again, and which of an engine's profiles serves them."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from gantk.bundle import Profile
from gantk.errors import GantkError
from gantk.runtime.cuda import Cuda
from gantk.runtime.runner import numpy_dtype
from gantk.tensors import TensorSpec

LIMIT = 16
"""How many plans are kept."""

Shape = tuple[int, ...]


@dataclass
class Plan:
    """What is kept for one set of input shapes.

    Args:
        profile: The index of the profile that serves them.
        shapes: Of every input and output; of an output whose size the run tells, with sides below 0.
        runs: How often it ran.
        graph: The captured work, from the second run on.
        captures: Whether it has not been found that it cannot be captured.
        keeps: What the graph works with, and outlives it.
    """

    profile: int
    shapes: dict[str, Shape]
    runs: int = 0
    graph: Any = None
    captures: bool = True
    keeps: Any = None

    def size_bytes(self, spec: TensorSpec) -> int:
        """Of an input or output of these shapes."""
        return math.prod(self.shapes[spec.name]) * numpy_dtype(spec).itemsize

    def run(self, cuda: Cuda, stream: Any, enqueue: Callable[[], None], capture: Callable[[], Any]) -> None:
        """Enqueue one run on a stream: the first time as it is, and as a graph from the second on.

        Args:
            cuda: Calls CUDA.
            stream: Where.
            enqueue: Enqueues what the plan comes to.
            capture: The same as a graph; `None` where it cannot be one.
        """
        if self.graph is None and self.runs and self.captures:
            self.graph = capture()
            self.captures = self.graph is not None
        if self.graph is not None:
            cuda.launch(self.graph, stream)
        else:
            enqueue()
        self.runs += 1


P = TypeVar("P", bound=Plan)


class Plans(Generic[P]):
    """The plans that were used last, at most `LIMIT`; each takes its graph along when it goes.

    Args:
        cuda: Calls CUDA.
    """

    def __init__(self, cuda: Cuda) -> None:
        self._cuda = cuda
        self._kept: dict[Hashable, P] = {}

    def get(self, key: Hashable) -> P | None:
        plan = self._kept.pop(key, None)
        if plan is not None:
            self._kept[key] = plan  # The youngest.
        return plan

    def keep(self, key: Hashable, plan: P) -> None:
        if len(self._kept) == LIMIT:
            self._drop_graph(self._kept.pop(next(iter(self._kept))))
        self._kept[key] = plan

    def drop_graphs(self) -> None:
        """Drop what knows addresses that are about to change."""
        for plan in self._kept.values():
            self._drop_graph(plan)

    def clear(self) -> None:
        """Drop all, whatever fails on the way."""
        with ExitStack() as stack:
            for plan in self._kept.values():
                stack.callback(self._drop_graph, plan)
            self._kept = {}

    def _drop_graph(self, plan: P) -> None:
        graph, plan.graph = plan.graph, None
        if graph is not None:
            self._cuda.destroy_graph(graph)
        plan.keeps = None


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

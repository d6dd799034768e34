# SPDX-License-Identifier: Apache-2.0
"""The operations, once for all front ends: each is checks, a plan, memory and launches.

A front end describes its arrays as `View`s and is an `Executor`, which allocates and launches in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from gantk.errors import GantkError
from gantk.kernels.arrays import View, dense
from gantk.kernels.launch import ELEMENT_BYTES, PRECISIONS, Device, Features, Launch
from gantk.kernels.variation_plan import KINDS, Pictures, VariationPlan, plan_variation


class Executor(Protocol):
    """One GPU and one stream of a front end."""

    @property
    def device(self) -> Device: ...

    def empty(self, name: str, shape: tuple[int, ...], dtype: str, strides: tuple[int, ...]) -> View:
        """A new array of any content; `View.owner` is what the front end's caller gets."""
        ...

    def workspace(self, size_bytes: int) -> View:
        """Memory of at least so many bytes, at a multiple of 16, that is free when what is launched now is done."""
        ...

    def launch(self, launches: Sequence[Launch]) -> None:
        """Enqueue launches, one after the other."""
        ...

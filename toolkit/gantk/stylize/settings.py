# SPDX-License-Identifier: Apache-2.0
"""What an optimisation over an exported step can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gantk.errors import UsageError

STARTS = ("content", "noise", "blend")
OPTIMIZERS = ("lbfgs", "adam")
MEASURES = ("relative", "sums")
SIZE_LIMIT = 4096


@dataclass(frozen=True)
class Settings:
    """How to optimise; the names and meanings are those of `gantk.gatys.config.GatysConfig`.

    Raises:
        UsageError: A value is not allowed.
    """

    size: int = 256
    style_size: int | None = None
    steps: int = 200
    scales: int | None = None
    init: str = "content"
    noise: float = 0.3
    shares: tuple[float, ...] = ()
    content_weight: float = 1.0
    style_weight: float = 30.0
    variation_weight: float = 0.3
    measure: str = "relative"
    optimizer: str = "lbfgs"
    lr: float | None = None
    beta1: float = 0.9
    adam_eps: float = 1e-8
    seed: int = 0
    preview_every: int = 0

    def __post_init__(self) -> None:
        for name, allowed in (("init", STARTS), ("optimizer", OPTIMIZERS), ("measure", MEASURES)):
            if getattr(self, name) not in allowed:
                raise UsageError(
                    f"{name} is {getattr(self, name)!r}; allowed are {', '.join(allowed)}", where=f"--{name}"
                )
        for name in ("size", "style_size"):
            if getattr(self, name) is not None and not 16 <= getattr(self, name) <= SIZE_LIMIT:
                raise UsageError(f"{name} is {getattr(self, name)}; 16 to {SIZE_LIMIT} is allowed")
        for name in ("steps", "scales"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} is {getattr(self, name)}; at least 1 is wanted", where=f"--{name}")
        weights = (self.content_weight, self.style_weight, self.variation_weight, *self.shares)
        if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
            raise UsageError(f"weights are {list(weights)}; numbers from 0 are wanted")
        if self.content_weight == 0 and self.style_weight == 0:
            raise UsageError("both --content-weight and --style-weight are 0: there is nothing to paint")

# SPDX-License-Identifier: Apache-2.0
"""What every optimisation can be told, checked as soon as it is said."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gantk.errors import UsageError
from gantk.options import check_options

SIZE_LIMIT = 4096

_LIMITS = {
    "size": (16, SIZE_LIMIT),
    "style_size": (16, SIZE_LIMIT),
    "steps": (1, 1_000_000),
    "scales": (1, 10),
    "noise": (0.0, 1.0),
    "content_weight": (0.0, 1e12),
    "style_weight": (0.0, 1e12),
    "variation_weight": (0.0, 1e12),
    "lr": (1e-9, 100.0),
    "beta1": (0.0, 0.999_999),
    "adam_eps": (1e-12, 10.0),
    "seed": (0, 2**31 - 1),
    "preview_every": (0, 1_000_000),
}
_CHOICES = {
    "init": ("content", "noise", "blend"),
    "measure": ("relative", "sums"),
    "optimizer": ("lbfgs", "adam"),
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to optimise a picture.

    Args:
        shares: The share of each style, of any sum above 0; by default all the same.
        size: The longer side of the result in pixels.
        style_size: The longer side to which the style pictures are brought; by default `size`. Smaller makes
            finer strokes.
        steps: At each size from the coarsest to `size`; above 512 pixels half as many with each doubling.
        scales: The number of sizes, each twice the one before; by default as many as begin at 64 pixels.
        init: What to start from: ``content``, ``noise`` or ``blend``.
        noise: The share of noise in a blend.
        content_weight: Of the content loss.
        style_weight: Of the style loss.
        variation_weight: Of the variation loss.
        measure: ``relative``: features and Gram matrices are compared relative to the size of those wanted, and
            the variation is a mean, so that weights mean the same for all pictures, layers and sizes. ``sums``:
            as in the lesson, half the sum of squared differences of features, the mean over layers of the mean
            squared difference of Gram matrices, and the sum of absolute differences, for colours of 0 to 255.
        optimizer: ``lbfgs`` or ``adam``.
        lr: The learning rate; by default 1 for L-BFGS and 0.02 for Adam, which then falls to a tenth.
        beta1: Adam's first decay.
        adam_eps: Adam's epsilon.
        seed: Of the noise.
        preview_every: Steps between previews; 0: none.

    Raises:
        UsageError: A value is not allowed; the message says which are.
    """

    shares: tuple[float, ...] = ()
    size: int = 256
    style_size: int | None = None
    steps: int = 200
    scales: int | None = None
    init: str = "content"
    noise: float = 0.3
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
        check_options(self, _LIMITS, _CHOICES)
        if self.content_weight == 0 and self.style_weight == 0:
            raise UsageError("both --content-weight and --style-weight are 0: there is nothing to paint")
        numbers = all(math.isfinite(share) and share >= 0 for share in self.shares)
        if self.shares and not (numbers and sum(self.shares) > 0):
            raise UsageError(f"shares are {list(self.shares)}; numbers from 0, not all 0, are wanted")

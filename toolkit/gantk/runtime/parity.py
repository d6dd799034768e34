# SPDX-License-Identifier: Apache-2.0
"""How far outputs are from their reference, and how far each precision may be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from gantk.bundle import STEP_FAMILY
from gantk.runtime.runner import Array

PSNR_CAP_DB = 200.0
"""Stands for equal outputs, whose ratio has no finite value."""

ROUNDED_DB = 65.0
"""What is wanted at most of outputs in whole levels: values that fall between two are rounded to either, and one
in fifty may be, where the layers are many. That no value is off by more is what tells right from wrong then."""

NOISE = 1e-3
"""How far two runs may be from each other, as a share of the largest value: sums may be taken in another order."""


@dataclass(frozen=True)
class Threshold:
    """The least that a precision must reach.

    Args:
        psnr_db: The smallest peak signal-to-noise ratio over all samples, in dB.
        max_abs: The largest difference of one value, as a share of the output's range.
        rounded_db: The largest `psnr_db` that outputs in whole levels are held to.
    """

    psnr_db: float
    max_abs: float
    rounded_db: float = ROUNDED_DB

    def asking(self, psnr_db: float) -> Threshold:
        """The same with a user's smallest PSNR, which holds for whole levels too."""
        return replace(self, psnr_db=psnr_db, rounded_db=psnr_db)


# A few times worse than healthy networks measure, far better than any wrong one: float32 outputs agree to
# rounding (above 120 dB), fp16 has 11 significant bits, bf16 has 8, int8 and fp8 are judged as pictures.
THRESHOLDS = {
    "fp32": Threshold(psnr_db=80.0, max_abs=1e-3),
    "tf32": Threshold(psnr_db=50.0, max_abs=0.15),  # Its products have the mantissas of fp16.
    "fp16": Threshold(psnr_db=50.0, max_abs=0.15),
    "bf16": Threshold(psnr_db=35.0, max_abs=0.5),
    "int8": Threshold(psnr_db=30.0, max_abs=0.5),
    "fp8": Threshold(psnr_db=30.0, max_abs=0.5),
}


# Of a step of an optimisation. One backend may cut off an activation within rounding of 0 where another does not: that
# is rare, but changes the gradient of all pixels that the activation sees by up to some percent, so the largest
# difference says less than the sum of all. TF32 has three bits of mantissa more than bf16.
STEP_THRESHOLDS = {
    "fp32": Threshold(psnr_db=60.0, max_abs=0.05),
    "tf32": Threshold(psnr_db=40.0, max_abs=0.5),
    "bf16": Threshold(psnr_db=30.0, max_abs=0.5),
}


def threshold_of(precision: str, family: str) -> Threshold:
    """What outputs must reach that were computed in a precision, of a network of a family."""
    if family == STEP_FAMILY and precision in STEP_THRESHOLDS:
        return STEP_THRESHOLDS[precision]
    return THRESHOLDS[precision]


def span_of(reference: Array, declared: tuple[float, float] | None) -> float:
    """An output's range: what is declared, or else what its reference has; of a single value its size. Never 0."""
    if declared is not None:
        return declared[1] - declared[0]
    values = reference.astype(np.float64)
    return float(np.ptp(values)) or float(np.abs(values).max()) or 1.0


def repeats(values: Array, again: Array) -> bool:
    """Whether a second run on the same inputs made the same; one of a network with random numbers does not."""
    size = float(np.abs(values.astype(np.float64)).max(initial=0.0))
    return values.shape == again.shape and np.allclose(values, again, atol=NOISE * size)


@dataclass(frozen=True)
class Difference:
    """Outputs against their reference; numbers are `None` where an output is not finite.

    Args:
        max_abs: The largest absolute difference.
        psnr_db: 10 log10(range^2 / mean squared difference), at most `PSNR_CAP_DB`.
        cosine: The smallest cosine similarity of a sample with its reference.
        samples: The number of samples compared.
        quantum: The step of the output's values: 1 for integers, which rounding may move by one; 0 for floats.
        fault: What is wrong with the outputs whatever the reference: not finite, or constant where the
            reference is not.
    """

    max_abs: float | None
    psnr_db: float | None
    cosine: float | None
    samples: int
    quantum: float = 0.0
    fault: str | None = None

    def against(self, threshold: Threshold, span: float) -> str | None:
        """Why `threshold` does not hold, in words, or `None` where it does; `span` is the output's range."""
        if self.fault is not None or self.psnr_db is None or self.max_abs is None:
            return self.fault or "outputs are not finite"
        wanted_db = min(threshold.psnr_db, threshold.rounded_db) if self.quantum else threshold.psnr_db
        if self.psnr_db < wanted_db:
            return f"{self.psnr_db:.1f} dB PSNR, at least {wanted_db:g} dB wanted"
        allowed = max(threshold.max_abs * span, self.quantum)
        if self.max_abs > allowed:
            return f"a value differs by {self.max_abs:.3g}, at most {allowed:.3g} allowed"
        return None


def compare(outputs: Sequence[Array], references: Sequence[Array], span: float) -> Difference:
    """Compare batches of outputs with their references, in float64.

    Args:
        outputs: Arrays of shape (N, ...), one a batch, of any dtype.
        references: Arrays of the same shapes.
        span: The output's range, largest minus smallest meaningful value; the peak of the PSNR.
    """
    samples = sum(len(reference) for reference in references)
    for output, reference in zip(outputs, references, strict=True):
        if output.shape != reference.shape:
            fault = f"an output has shape {list(output.shape)}, its reference {list(reference.shape)}"
            return Difference(None, None, None, samples, fault=fault)
        if not np.isfinite(output.astype(np.float64)).all():
            return Difference(None, None, None, samples, fault=_non_finite(output))
    flat = [
        (np.asarray(o, np.float64), np.asarray(r, np.float64))
        for o, r in zip(outputs, references, strict=True)
    ]
    squares = sum(float(np.square(o - r).sum()) for o, r in flat)
    count = sum(r.size for _, r in flat)
    max_abs = max((float(np.abs(o - r).max()) for o, r in flat), default=0.0)
    cosine = min((_cosine(a, b) for o, r in flat for a, b in zip(o, r, strict=True)), default=1.0)
    constant = all(np.ptp(o) == 0 for o, _ in flat) and any(np.ptp(r) > 0 for _, r in flat)
    return Difference(
        max_abs=max_abs,
        psnr_db=psnr_db(squares / count, span),
        cosine=cosine,
        samples=samples,
        quantum=1.0 if all(reference.dtype.kind in "iu" for reference in references) else 0.0,
        fault="every output is one constant" if constant else None,
    )


def psnr_db(mean_square: float, span: float) -> float:
    """The peak signal-to-noise ratio of a mean squared difference, in dB, at most `PSNR_CAP_DB`."""
    if mean_square == 0.0:
        return PSNR_CAP_DB
    return min(PSNR_CAP_DB, 10.0 * math.log10(span * span / mean_square))


def _cosine(a: Array, b: Array) -> float:
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / norms if norms > 0 else float(np.array_equal(a, b))


def _non_finite(output: Array) -> str:
    values = output.astype(np.float64)
    nan, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return f"{nan} values are NaN and {infinite} infinite, of {values.size}"

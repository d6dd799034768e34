# SPDX-License-Identifier: Apache-2.0
"""Short cases that, together, no mutant of the kernels should pass: by family, those of its trials and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gram_trials
import numpy as np
import variation_trials

Case = tuple[str, Callable[[], object]]


def gram() -> Iterator[Case]:
    for unit in ("gram", "gram_half", "gram_single"):
        yield from ((f"{unit} {i} {name}", run) for i, (name, run) in enumerate(gram_trials.cases(unit)))


def variation() -> Iterator[Case]:
    yield from ((f"variation {i}", run) for i, run in enumerate(variation_trials.cases("variation")))
    for dtype, arch in (("float16", "sm_80"), ("bfloat16", "sm_80"), ("bfloat16", "sm_75")):
        for shape in ((1, 2, 6, 16), (1, 1, 5, 7)):
            trial = variation_trials.Trial(shape, "l2", dtype, arch=arch)
            yield f"rounding {dtype} {arch} {shape}", lambda trial=trial: rounds_to_even(trial)  # type: ignore[misc]


def rounds_to_even(trial: variation_trials.Trial) -> None:
    """Whole numbers whose slopes are exact in float32, and often half-way between two halves."""
    dtype = variation_trials.TYPES[trial.dtype]
    most = 255 if trial.dtype == "bfloat16" else 2047
    pixels = np.random.default_rng(5).integers(0, most + 1, trial.shape).astype(dtype)
    _, gradient = variation_trials.execute(trial, pixels)
    _, slopes = variation_trials.reference(pixels.astype(np.float64), trial.kind, trial.eps)
    assert gradient is not None
    np.testing.assert_array_equal(
        gradient.view(np.uint16), slopes.astype(np.float32).astype(dtype).view(np.uint16)
    )


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {"variation": variation, "gram": gram}

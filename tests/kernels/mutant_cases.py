# SPDX-License-Identifier: Apache-2.0
"""Short cases that, together, no mutant of the kernels should pass: by family, those of its trials and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gram_gradient_trials
import gram_sm90_trials
import gram_trials
import variation_trials

Case = tuple[str, Callable[[], object]]


def gram() -> Iterator[Case]:
    for unit in ("gram", "gram_half", "gram_single"):
        yield from ((f"{unit} {i} {name}", run) for i, (name, run) in enumerate(gram_trials.cases(unit)))


def gram_gradient() -> Iterator[Case]:
    for unit in gram_gradient_trials.UNITS:
        yield from (
            (f"{unit} {i} {name}", run) for i, (name, run) in enumerate(gram_gradient_trials.cases(unit))
        )


def gram_sm90() -> Iterator[Case]:
    yield from (
        (f"gram_sm90 {i} {name}", run) for i, (name, run) in enumerate(gram_sm90_trials.cases("gram_sm90"))
    )


def variation() -> Iterator[Case]:
    yield from ((f"variation {i}", run) for i, run in enumerate(variation_trials.cases("variation")))


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {
    "variation": variation,
    "gram": gram,
    "gram_gradient": gram_gradient,
    "gram_sm90": gram_sm90,
}

# SPDX-License-Identifier: Apache-2.0
"""Short cases that, together, no mutant of the kernels should pass: by family, those of its trials and others."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gram_trials
import variation_trials

Case = tuple[str, Callable[[], object]]


def gram() -> Iterator[Case]:
    for unit in ("gram", "gram_half", "gram_single"):
        yield from ((f"{unit} {i} {name}", run) for i, (name, run) in enumerate(gram_trials.cases(unit)))


def variation() -> Iterator[Case]:
    yield from ((f"variation {i}", run) for i, run in enumerate(variation_trials.cases("variation")))


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {"variation": variation, "gram": gram}

# SPDX-License-Identifier: Apache-2.0
"""Short cases that, together, no mutant of the kernels should pass: those of the families' trials."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import gram_gradient_trials
import gram_sm90_trials
import gram_trials
import instance_norm_trials
import to_picture_trials
import variation_trials

Case = tuple[str, Callable[[], object]]

_FAMILIES: dict[str, tuple[ModuleType, tuple[str, ...]]] = {
    "variation": (variation_trials, ("variation",)),
    "gram": (gram_trials, ("gram", "gram_half", "gram_single")),
    "gram_gradient": (
        gram_gradient_trials,
        ("gram_gradient", "gram_gradient_half", "gram_gradient_single"),
    ),
    "gram_sm90": (gram_sm90_trials, ("gram_sm90",)),
    "instance_norm": (instance_norm_trials, ("instance_norm",)),
    "to_picture": (to_picture_trials, ("to_picture",)),
}
FAMILIES = tuple(_FAMILIES)


def _border(channels: int) -> Case:
    trial = gram_trials.Trial(((channels, 72),), "bfloat16", arch="sm_90a")
    return f"border {channels}", lambda: gram_trials.check(trial)


# Hopper's kernel changes its pieces after 64, 128 and 256 channels, which themselves belong to the smaller ones.
BORDERS = [_border(channels) for channels in (64, 65, 128, 129, 256)]


def cases_of(family: str) -> list[Case]:
    """Cases of all its units, named."""
    module, units = _FAMILIES[family]
    more = BORDERS if family == "gram_sm90" else []
    return more + [
        (f"{unit} {i} {name}", run) for unit in units for i, (name, run) in enumerate(module.cases(unit))
    ]

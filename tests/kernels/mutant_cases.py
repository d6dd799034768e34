# SPDX-License-Identifier: Apache-2.0
"""Short cases that, together, no mutant of the kernels should pass; each is a trial against float64."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import gram_trials
import variation_trials

Case = tuple[str, Callable[[], object]]


def gram() -> Iterator[Case]:
    """Every way to compute a Gram matrix: with more steps than the ring has stages, twice; ragged ends; slices."""
    trial = gram_trials.Trial
    trials = [
        trial(((1, 1),), "float16"),
        trial(((72, 456),), "float16", tile=64, arch="sm_75"),
        trial(((72, 456),), "float16", tile=64, layout="nhwc", arch="sm_75"),
        trial(((136, 456),), "bfloat16", tile=128),
        trial(((136, 456),), "float16", tile=128, layout="nhwc"),
        trial(((72, 228),), "float32", "tf32", tile=64),
        trial(((136, 228),), "float32", "tf32", tile=128, layout="nhwc"),
        trial(((72, 228),), "float32", tile=64, layout="nhwc"),
        trial(((130, 131),), "float32", tile=128, multiprocessors=3),
        trial(((5, 32 * 67),), "float32", multiprocessors=1),
        trial(((21, 203),), "bfloat16", layout="padded"),
        trial(((21, 75),), "float32", "tf32", layout="padded_last"),
        trial(((20, 75),), "float32", layout="strided"),
        trial(((17, 70),), "bfloat16", offset=2),
        trial(((66, 96), (3, 40)), "float16", pictures=2, multiprocessors=2, arch="sm_75"),
        trial(((72, 100),), "bfloat16", arch="sm_75"),
        trial(((65, 50),), "float32", arch="sm_75", multiprocessors=4, layout="nhwc"),
        trial(((40, 60),), "float16", layout="strided", arch="sm_75"),
        trial(((70, 64),), "float32", multiprocessors=30),
        trial(((12, 33), (70, 200), (5, 64)), "float32", pictures=2, multiprocessors=4, style=True),
        trial(((130, 40), (3, 300)), "float16", pictures=2, multiprocessors=4, tile=128, style=True),
    ]
    for each in trials:
        yield repr(each), lambda each=each: gram_trials.check(each)  # type: ignore[misc]


def variation() -> Iterator[Case]:
    for index, case in enumerate(variation_trials.cases("variation")):
        yield f"variation {index}", case


FAMILIES: dict[str, Callable[[], Iterator[Case]]] = {"variation": variation, "gram": gram}

# SPDX-License-Identifier: Apache-2.0
"""Trials of Hopper's Gram kernels in the interpreter; they are those of `gram_trials` on `sm_90a`."""

from __future__ import annotations

from collections.abc import Callable

from gram_trials import Trial, check

ARCH = "sm_90a"


def trials() -> list[Trial]:
    """Each piece of a triangle with a ring that turns more than twice, tails of channels and of places, groups."""
    return [
        Trial(((60, 64 * 2 * 26 + 8),), "float16", arch=ARCH),
        Trial(((100, 64 * 27 - 24),), "bfloat16", arch=ARCH),
        Trial(((200, 64 * 13 + 16),), "float16", arch=ARCH),
        Trial(((330, 64 * 13),), "bfloat16", arch=ARCH),
        Trial(((530, 72),), "bfloat16", arch=ARCH),
        Trial(((72, 32 * 27 + 4),), "float32", "tf32", arch=ARCH),
        Trial(
            ((8, 328), (70, 1000), (136, 136)),
            "float16",
            pictures=2,
            style=True,
            arch=ARCH,
            multiprocessors=8,
        ),
        Trial(((20, 200),), "bfloat16", layout="padded", pictures=2, arch=ARCH),
        Trial(((56, 128 * 26 + 40),), "bfloat16", layout="nhwc", arch=ARCH),
        Trial(((72, 64 * 3 + 5),), "float16", layout="nhwc", pictures=2, arch=ARCH),
        Trial(((200, 64 * 13 + 7),), "bfloat16", layout="padded_last", arch=ARCH),
        Trial(((328, 130),), "float16", layout="nhwc", arch=ARCH),
        Trial(((5, 64 * 2 * 66),), "bfloat16", arch=ARCH),
        Trial(((132, 32 * 66),), "float32", "tf32", arch=ARCH),
    ]


def cases(unit: str) -> list[tuple[str, Callable[[], None]]]:
    """What a mutant of `gram_sm90.cuh` or `wgmma.cuh` must not pass."""
    assert unit == "gram_sm90"
    return [(str(trial.layers), lambda trial=trial: _pass(trial)) for trial in trials()]


def _pass(trial: Trial) -> None:
    check(trial)

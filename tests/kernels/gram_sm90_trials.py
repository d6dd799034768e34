# SPDX-License-Identifier: Apache-2.0
"""Trials of Hopper's Gram kernels in the interpreter; they are those of `gram_trials` on `sm_90a`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gram_trials import Trial, check, numbers
from interpreted import Memory, run

ARCH = "sm_90a"


def trials() -> list[Trial]:
    """Each piece of a triangle with a ring that turns more than twice, tails of channels and of places, groups."""
    return [
        Trial(((60, 64 * 2 * 26 + 8),), "float16", arch=ARCH),
        Trial(((100, 64 * 27 - 24),), "bfloat16", arch=ARCH),
        Trial(((200, 64 * 13 + 16),), "float16", arch=ARCH),
        Trial(((330, 64 * 13),), "bfloat16", arch=ARCH),
        Trial(((530, 72),), "bfloat16", arch=ARCH, multiprocessors=64),  # In two slices.
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
        # The lower half of a band below the diagonal, and a step of one place.
        Trial(((392, 65),), "bfloat16", layout="nhwc", arch=ARCH),
        # The ring has turned once more after sums went to memory.
        Trial(((5, 64 * 2 * 79),), "bfloat16", arch=ARCH),
        # Blocks that take turns, several slices.
        Trial(((5, 64 * 2 * 3),), "bfloat16", arch=ARCH, multiprocessors=64),
        Trial(((132, 32 * 66),), "float32", "tf32", arch=ARCH),
    ]


# The last band of 256 channels has one, half of them and one more, in a third band just half of them, or all; of the
# last there are two slices.
BANDS = Trial(((257, 8), (385, 8), (640, 8), (768, 128)), "bfloat16", arch=ARCH, multiprocessors=64)


def check_tiles(trial: Trial) -> None:
    """All tiles of the triangles are summed, each by one block: the partial sums, before they are reduced."""
    memory, plan, values = Memory(), trial.plan(), numbers(trial)
    features = [memory.put(each) for each in values]
    workspace = memory.empty(plan.workspace_bytes // 4, np.float32)
    run(plan.launches(features, [0] * len(features), workspace)[:1], memory, trial.arch)
    sums = memory.get(workspace).reshape(-1, 64, 64)
    for layer, each in zip(plan.layers, values, strict=True):
        rows = -(-layer.features.shape[1] // 64)
        first = layer.partial_offset // 4 // 4096
        for split in range(layer.splits):
            places = each[0, :, split * layer.slice : (split + 1) * layer.slice]
            wide = np.pad(places.astype(np.float64), ((0, 64 * rows - len(places)), (0, 0)))
            wanted = (wide @ wide.T).reshape(rows, 64, rows, 64).swapaxes(1, 2)[np.tril_indices(rows)]
            found = sums[first + split * layer.tiles :][: layer.tiles]
            np.testing.assert_allclose(found, wanted, atol=1e-4)


def cases(unit: str) -> list[tuple[str, Callable[[], None]]]:
    """What a mutant of `gram_sm90.cuh` or `wgmma.cuh` must not pass."""
    assert unit == "gram_sm90"
    bands = ("bands", lambda: check_tiles(BANDS))
    return [*((str(trial.layers), lambda trial=trial: _pass(trial)) for trial in trials()), bands]


def _pass(trial: Trial) -> None:
    check(trial)

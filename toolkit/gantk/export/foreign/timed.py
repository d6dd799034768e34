# SPDX-License-Identifier: Apache-2.0
"""The inputs that a file from elsewhere is timed with: as large as pictures are, unless that takes long."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from gantk.bundle import Profile
from gantk.errors import GantkError
from gantk.export import verify
from gantk.export.engines.probe import probe_sizes
from gantk.export.reference import Feeds
from gantk.export.speed import BATCHES, PICTURE
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import Model
from gantk.runtime.registry import open_model
from gantk.tensors import TensorSpec

SCALES = (1, 2, 4)
"""What the sides of the picture that is timed are divided by, until one run is short enough."""

LONGEST_S = 1.0
"""A run may take so long: dozens of each form are made."""


def timed_inputs(model: Model, profiles: Sequence[Profile]) -> tuple[Feeds, ...]:
    """Inputs, a batch each: of the shape that engines are tuned for, or of usual ones where that was not said.

    Pictures of any size are as large as `PICTURE`, batches of others as in `BATCHES`; both are smaller where a run
    would take longer than `LONGEST_S`.

    Args:
        model: The file.
        profiles: Of the engines that are built of it.

    Returns:
        The inputs; none where the file runs with no such shape.
    """
    found: tuple[Feeds, ...] = ()
    for trials in _trials(model.inputs, profiles):
        feeds = tuple(random_feeds(model.inputs, sizes, seed=0) for sizes in trials)
        latency_s = _latency_s(model, feeds[-1])
        if latency_s is not None:
            found = feeds
            if latency_s <= LONGEST_S:
                break
    return found


def _trials(inputs: Sequence[TensorSpec], profiles: Sequence[Profile]) -> list[list[Mapping[str, int]]]:
    """What symbols may stand for, a mapping for each batch that is timed; what is preferred comes first."""
    free = [
        (size, spec, axis) for spec in inputs for axis, size in enumerate(spec.shape) if isinstance(size, str)
    ]
    if profiles:
        return [[{symbol: profiles[0][spec.name].opt[axis] for symbol, spec, axis in free}]]
    usual = probe_sizes(inputs, ())
    batches = [symbol for symbol, _, axis in free if axis == 0]
    sides = list(dict.fromkeys(symbol for symbol, spec, axis in free if axis > 0 and len(spec.shape) == 4))
    if not sides:
        sets = [BATCHES, BATCHES[:1]] if batches else [BATCHES[:1]]
        return [[{**usual, **dict.fromkeys(batches, batch)} for batch in trials] for trials in sets]
    batch, *picture = PICTURE
    return [
        [
            {
                **usual,
                **{side: picture[index % 2] // scale for index, side in enumerate(sides)},
                **dict.fromkeys(batches, batch),
            }
        ]
        for scale in SCALES
    ]


def _latency_s(model: Model, feeds: Feeds) -> float | None:
    """How long a run takes, after a first one; `None` where there is none."""
    for backend in verify.working_backends(model.precision):
        try:
            with open_model(model, backend) as runner:
                runner.run(feeds)
                start = time.perf_counter()
                runner.run(feeds)
                return time.perf_counter() - start
        except GantkError:
            continue
    return None

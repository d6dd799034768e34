# SPDX-License-Identifier: Apache-2.0
"""Trial inputs, and what a file that computes them is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gantk.runtime.arrays import random_feeds
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

BATCHES = (1, 3, 8)
"""The batch sizes that a file is tried with whose pictures have one size."""

PICTURES = ((1, 96, 128), (3, 37, 61), (2, 50, 23))
"""Batch size, height and width of what a file is tried with that takes any size."""

Feeds = dict[str, Array]
Outputs = dict[str, Array]


@dataclass(frozen=True)
class Reference:
    """What PyTorch makes of some inputs.

    Args:
        name: E.g. ``torch float32``.
        feeds: The inputs, a batch each.
        outputs: PyTorch's outputs, a batch each.
        spans: Of each output, its range, by name.
        sizes: Height and width of the first picture of each batch, where the network takes any.
    """

    name: str
    feeds: tuple[Feeds, ...]
    outputs: tuple[Outputs, ...]
    spans: dict[str, float]
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes."""
        return tuple(len(next(iter(feed.values()))) for feed in self.feeds)


def trial_sizes(
    inputs: Sequence[TensorSpec], pictures: Sequence[tuple[int, int, int]] = PICTURES
) -> tuple[dict[str, int], ...]:
    """What the symbols of a network's inputs stand for in each trial.

    Args:
        inputs: Of the network. Where none is a picture of any size, the trials are the batch sizes `BATCHES`.
        pictures: Batch size, height and width of the first picture in each trial; a second picture has
            those of the next one.
    """
    free = _free_pictures(inputs)
    if not free:
        return tuple({"N": batch} for batch in BATCHES)
    trials = []
    for index, (batch, *_) in enumerate(pictures):
        sizes = {"N": batch}
        for offset, (spec, symbols) in enumerate(free):
            sides = pictures[(index + offset) % len(pictures)][1:]
            for symbol, side in zip(symbols, sides, strict=True):
                sizes.setdefault(symbol, max(side, spec.smallest))
        trials.append(sizes)
    return tuple(trials)


def make_feeds(
    inputs: Sequence[TensorSpec], trials: Sequence[Mapping[str, int]] | None = None, seed: int = 0
) -> tuple[Feeds, ...]:
    """Random inputs for each trial (see `gantk.runtime.arrays.random_array`).

    Args:
        inputs: Of the network.
        trials: From `trial_sizes`, which makes them where they are not given.
        seed: Other inputs for each.
    """
    trials = trial_sizes(inputs) if trials is None else trials
    return tuple(random_feeds(inputs, sizes, seed=1000 * seed + index) for index, sizes in enumerate(trials))


def _free_pictures(inputs: Sequence[TensorSpec]) -> list[tuple[TensorSpec, tuple[str, str]]]:
    """The inputs that are pictures of any size, with the symbols of their heights and widths."""
    found = []
    for spec in inputs:
        height, width = (spec.shape[axis] for axis in spec.picture_axes or (0, 0))
        if spec.picture_axes and isinstance(height, str) and isinstance(width, str):
            found.append((spec, (height, width)))
    return found


def picture_sizes(inputs: Sequence[TensorSpec], feeds: Sequence[Feeds]) -> tuple[tuple[int, int], ...]:
    for spec, _ in _free_pictures(inputs):
        assert spec.picture_axes is not None
        height, width = spec.picture_axes
        shapes = [feed[spec.name].shape for feed in feeds]
        return tuple((shape[height], shape[width]) for shape in shapes)
    return ()

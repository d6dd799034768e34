# SPDX-License-Identifier: Apache-2.0
"""Hopper's Gram kernels: what the interpreter makes of their PTX."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gram_sm90_trials import ARCH, BANDS, check_tiles, trials
from gram_trials import Trial, check, execute, numbers
from judged import TRIALS

pytestmark = TRIALS


def name(trial: Trial) -> str:
    layers = "+".join(f"{channels}x{places}" for channels, places in trial.layers)
    return f"{trial.dtype}-{layers}-{trial.layout}" + ("-style" if trial.style else "")


@pytest.mark.parametrize("trial", trials(), ids=name)
def test_each_piece_against_float64(trial: Trial) -> None:
    assert {layer.variant.unit for layer in trial.plan().layers} == {"gram_sm90"}
    check(trial)


@pytest.mark.parametrize("layer", [(1, 8), (64, 128), (65, 136), (128, 64), (129, 8), (256, 64)], ids=str)
def test_sizes_about_the_borders_of_pieces(layer: tuple[int, int]) -> None:
    check(Trial((layer,), "bfloat16", arch=ARCH))


def test_pieces_of_several_bands_are_those_of_the_triangle() -> None:
    check_tiles(BANDS)


def test_every_run_gives_the_same_bits() -> None:
    trial = Trial(((100, 2048),), "bfloat16", arch=ARCH, multiprocessors=4)
    first, again = (execute(replace(trial, at_once=count), numbers(trial)).grams[0] for count in (1, 2))
    np.testing.assert_array_equal(first, again)


def test_what_is_not_finite_stays_so_and_spoils_nothing_else() -> None:
    trial = Trial(((70, 200),), "bfloat16", arch=ARCH)
    values = numbers(trial)
    clean = execute(trial, values).grams[0][0]
    values[0][0, 66, 190] = np.inf
    values[0][0, 2, 3] = np.nan
    found = execute(trial, values).grams[0][0]
    spoilt = np.zeros(found.shape, bool)
    spoilt[[2, 66]] = spoilt[:, [2, 66]] = True
    assert not np.isfinite(found[spoilt]).any()
    np.testing.assert_array_equal(found[~spoilt], clean[~spoilt])

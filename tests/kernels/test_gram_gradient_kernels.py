# SPDX-License-Identifier: Apache-2.0
"""The kernels of the gradient, as the interpreter runs their PTX, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gram_gradient_trials import (
    ROUNDED,
    UNITS,
    Given,
    Trial,
    check,
    check_rounding,
    execute,
    numbers,
    reference,
    trials,
)
from judged import TRIALS

pytestmark = TRIALS


def name(trial: Trial) -> str:
    layers = "+".join(f"{channels}x{places}" for channels, places in trial.layers)
    kernel = trial.plan().layers[0].kernel.removeprefix("gantk_gram_gradient_")
    return f"{trial.arch}-{kernel}-{layers}-{trial.layout}" + ("-style" if trial.style else "")


@pytest.mark.parametrize("trial", [trial for unit in UNITS for trial in trials(unit)], ids=name)
def test_each_path_against_float64(trial: Trial) -> None:
    check(trial)


@pytest.mark.parametrize("trial", ROUNDED, ids=name)
def test_halves_are_rounded_to_the_nearest(trial: Trial) -> None:
    check_rounding(trial)


def odd_sizes() -> Iterator[Any]:
    """Quickly each layer of one type in one layout, of the other in the other."""
    for index, layer in enumerate(((1, 1), (1, 300), (64, 1), (65, 129), (129, 64), (8, 8))):
        for place, dtype in enumerate(("float32", "bfloat16")):
            for turn, layout in enumerate(("nchw", "nhwc")):
                trial = Trial((layer,), dtype, layout=layout)
                yield pytest.param(trial, marks=pytest.mark.slow if (index + place + turn) % 2 else ())


@pytest.mark.parametrize("trial", list(odd_sizes()), ids=name)
def test_odd_sizes(trial: Trial) -> None:
    check(trial)


def test_spans_and_slopes_that_pass_or_stay_give_the_same_bits() -> None:
    """How the work is cut changes the order of no sum."""
    trial = Trial(((200, 1100),), "float16")
    stays, passes = trial, replace(trial, shared_bytes=101_376)
    short = replace(trial, multiprocessors=100)
    assert [each.plan().layers[0].resident for each in (stays, passes, short)] == [True, False, False]
    assert [each.plan().layers[0].span for each in (stays, passes, short)] == [2, 2, 1]
    first, *others = (execute(each, numbers(trial))[0] for each in (stays, passes, short))
    for other in others:
        np.testing.assert_array_equal(first, other)


@pytest.mark.parametrize(
    ("dtype", "slopes"),
    [
        *(("float16", 1e-9), ("bfloat16", 1e-6), ("bfloat16", 1e-3)),
        *(("float16", 1.0), ("float16", 1e4), ("bfloat16", 1e4)),
        *(pytest.param("float16", slopes, marks=pytest.mark.slow) for slopes in (1e-6, 1e-3)),
        *(pytest.param("bfloat16", slopes, marks=pytest.mark.slow) for slopes in (1e-9, 1.0)),
    ],
)
def test_slopes_of_every_size_that_a_style_loss_has(dtype: str, slopes: float) -> None:
    """Features make results of about 1, which float16 has; the slopes alone would be 0 or infinite in it."""
    values = min(1e4, 20 / slopes)
    result = check(Trial(((48, 40),), dtype, slopes=slopes, values=values))
    assert np.abs(result[0]).max() > 1e-6


def test_a_row_of_slopes_much_smaller_than_others_is_as_exact() -> None:
    trial = Trial(((48, 40),), "float16", layout="nhwc")
    given = numbers(trial)
    sizes = np.logspace(-9, 0, 48).astype(np.float32)
    gradient = given.gradients[0] * np.minimum.outer(sizes, sizes)
    features = (given.features[0].astype(np.float32) * 1000).astype(np.float16)
    check(trial, Given([features], [gradient], given.upstream))


def test_the_error_of_exact_float32_is_that_of_float32_sums() -> None:
    """Not of TF32 alone; against a float32 product by numpy."""
    trial = Trial(((100, 140),), "float32")
    given = numbers(trial)
    (wanted, size), made = reference(trial, given)[0], execute(trial, given)[0]
    gradient, features = given.gradients[0], given.features[0]
    plain = ((gradient + gradient.swapaxes(1, 2)) * np.float32(1 / 140)) @ features
    assert (np.abs(made - wanted) / size).max() <= 2 * (np.abs(plain - wanted) / size).max()


@pytest.mark.parametrize(
    ("dtype", "layout"), [("float16", "nchw"), ("bfloat16", "nhwc"), ("float32", "nchw")]
)
def test_what_is_not_finite_stays_so_and_spoils_nothing_else(dtype: str, layout: str) -> None:
    trial = Trial(((70, 140),), dtype, layout=layout)
    given = numbers(trial)
    given.gradients[0][0, 3, 5] = np.inf
    given.features[0][0, 60, 100] = np.nan
    result = execute(trial, given)[0][0]
    spoilt = np.zeros(result.shape, bool)
    spoilt[[3, 5]] = spoilt[:, 100] = True
    assert not np.isfinite(result[spoilt]).any()
    wanted = (given.gradients[0] + given.gradients[0].swapaxes(1, 2))[0].astype(np.float64) / 140
    wanted[[3, 5]] = 0
    clean = np.nan_to_num(given.features[0][0].astype(np.float64), nan=0)
    error = np.abs(result - wanted @ clean)[~spoilt]
    assert (error <= 0.01 * (np.abs(wanted) @ np.abs(clean))[~spoilt]).all()


def test_no_upstream_gradient_is_a_gradient_of_zeros() -> None:
    trial = Trial(((20, 40),), "float16", style=True, pictures=2)
    given = numbers(trial)
    given.upstream[0] = 0
    result = execute(trial, given)[0]
    assert (result[0] == 0).all()
    assert (result[1] != 0).any()


def test_later_architectures_compute_the_same() -> None:
    trial = Trial(((72, 264),), "bfloat16")
    np.testing.assert_array_equal(check(replace(trial, arch="sm_120")), check(trial))

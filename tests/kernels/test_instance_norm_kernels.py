# SPDX-License-Identifier: Apache-2.0
"""The kernels of instance normalisation, as the interpreter runs their PTX, against float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from instance_norm_trials import RefusedError, Trial, cases, check, execute, numbers_of, plan, reference
from judged import TRIALS

pytestmark = TRIALS


@pytest.mark.parametrize("case", [pytest.param(call, id=label) for label, call in cases("instance_norm")])
def test_a_quick_case(case: Callable[[], None]) -> None:
    case()


def test_nan_stays_nan_in_its_channel() -> None:
    trial = Trial((1, 6, 5, 16))
    numbers = numbers_of(trial)
    numbers.features[0, 2, 3, 5] = np.nan
    made = execute(trial, numbers)
    assert np.isnan(made[..., 5]).all()
    assert np.isfinite(np.delete(made, 5, 3)).all()


def test_the_largest_halves_do_not_overflow_their_sums() -> None:
    trial = Trial((1, 20, 20, 8), mean=0)
    numbers = numbers_of(trial)
    numbers.features[:] = np.where(numbers.features > 0, 65504, -65504)
    assert np.isfinite(execute(trial, numbers)).all()


def test_pictures_of_one_value_are_their_offset() -> None:
    trial = Trial((1, 5, 5, 8), rectifies=False)
    numbers = numbers_of(trial)
    numbers.features[:] = np.float16(1000.5)
    made = execute(trial, numbers)
    np.testing.assert_array_equal(made, np.broadcast_to(numbers.offset.astype(np.float16), made.shape))


def test_pixels_that_are_only_moved_are_the_same_bits() -> None:
    trial = Trial((1, 5, 6, 16), blocks=(1, 2), pads=(2, 1, 1, 2), normalizes=False, rectifies=False)
    numbers = numbers_of(trial)
    made = execute(trial, numbers)
    np.testing.assert_array_equal(made, reference(trial, numbers).astype(np.float16))
    assert plan(trial, numbers).workspace_bytes == 0


def test_any_number_of_chunks_gives_nearly_the_same() -> None:
    trial = Trial((1, 33, 31, 32), "float32", multiprocessors=1)
    numbers = numbers_of(trial)
    one = execute(trial, numbers)
    for multiprocessors in (2, 7, 60):
        other = execute(replace(trial, multiprocessors=multiprocessors), numbers)
        np.testing.assert_allclose(one, other, rtol=0, atol=3e-6)


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        (Trial((1, 4, 4, 8), pads=(4, 0, 0, 0)), "too small for what is to be reflected"),
        (Trial((1, 4, 4, 8), blocks=(3, 1)), "a block is 3 pixels wide"),
        (Trial((1, 4, 4, 6), blocks=(2, 1)), "6 channels are not those of blocks of 2 x 2"),
        (Trial((1, 4, 4, 8), starts=(2, 0), ends=(2, 9)), "nothing is left"),
        (Trial((1, 4, 4, 8), pads=(0, 0, 0, -1)), "a border is negative"),
        (Trial((1, 0, 4, 8)), "below 1"),
        (Trial((1, 2**20, 2**12, 8)), "more than 2^30"),
        (Trial((70000, 1, 1, 8), pads=(0, 0, 0, 0)), "more blocks than a grid has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused(trial: Trial, reason: str) -> None:
    numbers = numbers_of(Trial((1, 2, 2, 8)))
    with pytest.raises(RefusedError, match=reason.replace("^", r"\^")):
        plan(trial, numbers)


def test_what_is_added_must_hold_the_pictures() -> None:
    trial = Trial((1, 6, 6, 8), others=(1, 1), rectifies=False)
    numbers = numbers_of(trial)
    check(trial)
    with pytest.raises(RefusedError, match="does not hold pictures of 6 x 6"):
        plan(trial, replace(numbers, others=numbers.others[:, 2:]))

# SPDX-License-Identifier: Apache-2.0
"""The kernel of a generator's last layer, as the interpreter runs its PTX, against float64; and its plan."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from judged import TRIALS
from to_picture_trials import RefusedError, Trial, cases, execute, numbers_of, plan, reference

pytestmark = TRIALS


@pytest.mark.parametrize("case", [pytest.param(call, id=label) for label, call in cases("to_picture")])
def test_a_quick_case(case: Callable[[], None]) -> None:
    case()


def test_nan_reaches_the_pixels_that_see_it_and_no_others() -> None:
    trial = Trial((1, 20, 20, 8))
    numbers = numbers_of(trial)
    numbers.features[0, 16, 3, 5] = np.nan
    made = np.isnan(execute(trial, numbers))
    assert made[:, :, 31:35, 5:9].all()
    assert made.sum() == 3 * 16


def test_large_sums_end_at_one() -> None:
    trial = Trial((1, 3, 4, 64))
    numbers = numbers_of(trial)
    numbers.features[:] = 60000
    made = execute(trial, numbers)
    np.testing.assert_array_equal(np.abs(made), 1)
    np.testing.assert_array_equal(made, np.sign(reference(numbers)))


def test_small_sums_are_as_near_as_float16_has_them() -> None:
    trial = Trial((1, 3, 4, 8))
    numbers = numbers_of(trial)
    numbers.weights[:] = 0
    numbers.bias[:] = (1e-3, -2e-4, 0)
    np.testing.assert_allclose(execute(trial, numbers), reference(numbers), rtol=1e-3, atol=1.5e-7)


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        (Trial((1, 4, 4, 12)), "multiple of 8"),
        (Trial((1, 4, 4, 16), offset=1), "16 bytes"),
        (Trial((1, 4, 4, 16), made=9), "picture of 9 channels"),
        (Trial((1, 0, 4, 16)), "below 1"),
        (Trial((65536, 4, 4, 16)), "than a grid has"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_fit_is_refused_in_words(trial: Trial, reason: str) -> None:
    with pytest.raises(RefusedError, match=reason):
        plan(trial)

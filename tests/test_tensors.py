# SPDX-License-Identifier: Apache-2.0
"""The description of a tensor."""

from __future__ import annotations

from typing import Any

import pytest

from gantk.errors import GantkError
from gantk.tensors import DTYPES, TensorSpec

GOOD: dict[str, Any] = {"name": "x", "dtype": "float32", "shape": ["N", 3], "range": [-1, 1], "layout": "NC"}


def test_round_trip_and_text() -> None:
    spec = TensorSpec.from_json(GOOD)
    assert spec == TensorSpec("x", "float32", ("N", 3), (-1.0, 1.0), "NC")
    assert TensorSpec.from_json(spec.to_json()) == spec
    assert str(spec) == "x: float32[N x 3]"


def test_concrete_shapes() -> None:
    spec = TensorSpec("x", "uint8", ("N", "H", "W", 3), layout="NHWC")
    assert spec.is_dynamic
    assert spec.concrete({"H": 5, "W": 7, "Z": 9}) == (1, 5, 7, 3)
    assert not TensorSpec("x", "uint8", (2, 3)).is_dynamic
    assert TensorSpec("x", "float32", ()).concrete({}) == ()


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_one_of_numpy_or_bfloat16(dtype: str) -> None:
    import ml_dtypes  # noqa: F401 - makes numpy know bfloat16
    import numpy as np

    assert np.dtype(dtype).name == dtype


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", [None, 3, "", "a\nb", "x" * 201, "\x1b[2J", "\ud800"]),
        ("dtype", [None, "float", "Float32", "f4", "", 32, "x" * 9999]),
        (
            "shape",
            [None, "N", [-1], [True], [1.5], [None], ["N M"], ["1N"], [""], [2**31], [10**400], [1] * 17],
        ),
        (
            "range",
            [[1, -1], [0, 0], [0], [0, 1, 2], "01", [None, 1], [True, "x"], [0, 10**400], [float("nan"), 1]],
        ),
        ("range", [[float("-inf"), 0], [0, float("inf")]]),
        ("layout", ["NHWC", "CN", "", 3, "nc"]),
        ("smallest", [0, -1, True, 2, 1.5, "8", None, 2**40]),
    ],
)
def test_what_is_refused(field: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(GantkError) as caught:
            TensorSpec.from_json({**GOOD, field: value})
        assert len(str(caught.value)) < 600


def test_only_pictures_have_a_height_a_width_and_a_smallest_one() -> None:
    floats = TensorSpec("x", "float32", ("N", 3, "H", "W"), (0.0, 1.0), "NCHW", 8)
    pixels = floats.as_pixels()
    assert (floats.picture_axes, pixels.picture_axes) == ((2, 3), (1, 2))
    assert pixels.smallest == 8
    assert TensorSpec.from_json(pixels.to_json()) == pixels
    assert TensorSpec("x", "float32", ("N", 3), None, "NC").picture_axes is None
    with pytest.raises(GantkError, match="has a smallest height and is no picture"):
        TensorSpec("x", "float32", ("N", 3), None, "NC", 8)


@pytest.mark.parametrize("data", [None, [], "x", 3, {}, {"name": "x"}])
def test_what_is_no_description(data: Any) -> None:
    with pytest.raises(GantkError):
        TensorSpec.from_json(data)

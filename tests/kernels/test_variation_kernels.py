# SPDX-License-Identifier: Apache-2.0
"""The kernels of the total variation, as the interpreter runs their PTX, against float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import variation_trials
from judged import TRIALS
from ptx import Memory
from ptx.memory import BASE
from variation_trials import (
    LAYOUTS,
    TYPES,
    VALUE,
    Trial,
    cases,
    check,
    check_folded,
    check_rounding,
    execute,
    picture,
    reference,
)

from gantk.kernels.launch import Device
from gantk.kernels.variation_plan import KINDS, Pictures, plan_variation

pytestmark = TRIALS

PACK = {"float32": 4, "float16": 8, "bfloat16": 8}


@pytest.mark.parametrize("gradient", [None, "contiguous"], ids=["value", "gradient"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows(kind: str, dtype: str, gradient: str | None) -> None:
    """Channels that end within a warp, rows that cross one, bands of more rows than are fetched ahead."""
    trial = Trial((2, 3, 23, 20 * PACK[dtype]), kind, dtype, gradient=gradient)
    assert f"{kind}_packed" in trial.plan().kernel
    check(trial)


@pytest.mark.parametrize("gradient", [False, True], ids=["value", "gradient"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(
    ("kind", "layout"), list(zip(KINDS, ["channels_last", "sliced", "contiguous"], strict=True))
)
def test_rows_of_any_strides(kind: str, layout: str, dtype: str, gradient: bool) -> None:
    into = {"channels_last": "channels_last"}.get(layout, "contiguous") if gradient else None
    trial = Trial((2, 3, 23, 23), kind, dtype, layout, into, counters=False)
    assert "strided" in trial.plan().kernel
    check(trial)


@pytest.mark.parametrize(
    "shape",
    [
        (1, 1, 1, 1),
        (1, 1, 1, 5000),
        (1, 1, 5000, 1),
        (1, 1, 33, 130),
        (1, 2, 17, 64),
        (1, 1, 255, 257),
        (5, 1, 2, 2),
    ],
    ids=str,
)
def test_odd_sizes(shape: tuple[int, int, int, int]) -> None:
    check(Trial(shape, "isotropic", multiprocessors=4))


@pytest.mark.parametrize(
    "trial",
    [
        Trial((1, 3, 12, 8), layout="transposed", gradient="transposed"),
        Trial((1, 3, 12, 8), "isotropic", layout="transposed", gradient="contiguous"),
        Trial((1, 3, 5, 8), "l2", layout="contiguous", gradient="channels_last"),
        Trial((1, 3, 5, 8), "l2", offset=4),
        Trial((1, 2, 5, 16), "l2", "float16", offset=2),
        Trial((1, 70, 3, 2), "l1", layout="channels_last", gradient="contiguous"),
    ],
    ids=lambda trial: f"{trial.layout}-{trial.gradient}-{trial.offset}",
)
def test_layouts_and_alignments(trial: Trial) -> None:
    check(trial)


@pytest.mark.parametrize("arch", ["sm_75", "sm_80"])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("width", [16, 3])
def test_gradients_in_halves_are_rounded_to_nearest(dtype: str, width: int, arch: str) -> None:
    """On sm_75 bfloat16 is rounded by hand."""
    check_rounding(Trial((1, 2, 5, width), "l2", dtype, arch=arch))


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_one_launch_and_two_give_the_same_bits_in_any_order_of_blocks(layout: str) -> None:
    trial = Trial((2, 3, 40, 100), "isotropic", layout=layout, gradient=layout, multiprocessors=2)
    pixels = picture(trial)
    first = execute(trial, pixels)
    assert trial.plan().counters == 2
    for other in (replace(trial, counters=False), replace(trial, at_once=1)):
        for one, two in zip(first, execute(other, pixels), strict=True):
            np.testing.assert_array_equal(one, two)


def test_counters_serve_again_and_again() -> None:
    trial = Trial((2, 1, 40, 64), multiprocessors=2)
    pixels = picture(trial)
    once, again = execute(trial, pixels)[0], execute(trial, pixels, times=3)[0]
    np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize("counters", [False, True])
def test_pictures_lie_along_two_axes_of_the_grid(counters: bool) -> None:
    check_folded(Trial((3, 1, 9, 8), "l2", multiprocessors=8, counters=counters))


FAR = 2**32 + 2**24  # Elements. Cut to 32 bits it is still beyond everything.


class Far(Memory):
    """Memory in which what lies `FAR` floats further is the same."""

    def check(self, address: np.ndarray, *arguments: Any) -> np.ndarray:  # type: ignore[type-arg]
        return super().check(np.where(address >= BASE + 4 * FAR, address - 4 * FAR, address), *arguments)


@pytest.mark.parametrize("width", [8, 6])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_strides_and_offsets_have_64_bits(width: int, axis: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, channels or rows 16 GiB apart, of which nothing else is there."""
    shape = (2, 1, 2, width) if axis == 0 else (1, 2, 2, width) if axis == 1 else (1, 1, 2, width)
    trial = Trial(shape, "l2", counters=False)
    laid = Pictures.contiguous("float32", *shape)
    strides = tuple(stride + (FAR if axis == i else 0) for i, stride in enumerate(laid.strides))
    far = replace(laid, strides=strides)
    plan = plan_variation(far, "l2", 0, Device((8, 0), 1, 0), far)
    monkeypatch.setattr(variation_trials, "Memory", Far)
    pixels = picture(trial)
    value, gradient = execute(trial, pixels, plan)
    wanted, slopes = reference(pixels.astype(np.float64), "l2", 0)
    np.testing.assert_allclose(value, wanted, rtol=VALUE)
    np.testing.assert_allclose(gradient, slopes, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [16, 15])
@pytest.mark.parametrize("size", [3e4, 1.0])
def test_large_halves_do_not_overflow_and_plain_pictures_have_no_slope(
    kind: str, width: int, size: float
) -> None:
    trial = Trial((1, 1, 12, width), kind, "float16", eps=1e-6)
    if size == 1.0:
        pixels = np.full(trial.shape, 0.7, np.float16)
    else:
        pixels = (picture(trial).astype(np.float32) * size).astype(np.float16)
    value, gradient = execute(trial, pixels)
    wanted, slopes = reference(pixels.astype(np.float64), kind, 1e-6)
    np.testing.assert_allclose(value, wanted, rtol=VALUE)
    with np.errstate(over="ignore"):
        # A slope of l2 may be more than a half can hold.
        slopes = slopes.astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(gradient.astype(np.float64), slopes, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("width", [8, 7])
def test_what_is_not_finite_stays_so_and_spreads_no_further(kind: str, odd: float, width: int) -> None:
    trial = Trial((1, 2, 11, width), kind, eps=1e-6)
    for places in ([(5, 3)], [(0, 0)], [(10, width - 1)], [(10, 0), (0, width - 1), (4, 4), (4, 5)]):
        pixels = picture(trial)
        for y, x in places:
            pixels[0, 0, y, x] = odd
        value, gradient = execute(trial, pixels)
        wanted, slopes = reference(pixels, kind, 1e-6)
        np.testing.assert_array_equal(np.isfinite(value), np.isfinite(wanted))
        np.testing.assert_array_equal(np.isfinite(gradient), np.isfinite(slopes))
        sure = np.isfinite(slopes)
        np.testing.assert_allclose(gradient[sure], slopes[sure], rtol=1e-5, atol=1e-5)


def test_one_pixel_has_no_variation_whatever_it_is() -> None:
    for pixel in (np.inf, np.nan, 1.0):
        value, gradient = execute(Trial((1, 1, 1, 1)), np.full((1, 1, 1, 1), pixel, np.float32))
        assert (float(value[0]), float(gradient[0, 0, 0, 0])) == (0.0, 0.0)


def test_lengths_beyond_float32_are_infinite() -> None:
    pixels = np.zeros((1, 1, 2, 8), np.float32)
    pixels[0, 0, 0, 3] = 1e30
    value, gradient = execute(Trial(pixels.shape, "isotropic"), pixels)
    assert value[0] == np.inf
    assert np.isfinite(gradient).all()  # As of PyTorch: 1e30 / inf is 0.


@pytest.mark.parametrize("eps", [1e-60, 1e-42, 1e-8, 1e30])
def test_eps_of_any_size(eps: float) -> None:
    trial = Trial((1, 1, 5, 8), "isotropic", eps=eps)
    plain = np.full(trial.shape, 0.25, np.float32)
    value, gradient = execute(trial, plain)
    np.testing.assert_allclose(value, [40 * np.sqrt(max(eps, 2.0**-126))], rtol=VALUE)
    assert not gradient.any()


def test_sums_of_a_large_picture_keep_their_small_terms() -> None:
    """The worst for sums: equal terms, whose roundings agree, and many of them; bands of 64 rows."""
    for dtype, width in (("float32", 512), ("bfloat16", 1024)):
        trial = Trial((1, 1, 512, width), "isotropic", dtype, gradient=None, eps=0.7)
        value, _ = execute(trial, np.zeros(trial.shape, TYPES[dtype]))
        wanted = 512 * width * np.sqrt(float(np.float32(0.7)))
        assert abs(float(value[0]) / wanted - 1) < VALUE


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_picture_of_2048_pixels(kind: str) -> None:
    check(Trial((1, 1, 2048, 2048), kind, gradient="contiguous", multiprocessors=132))


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_kernel_on_every_layout(kind: str, dtype: str, layout: str) -> None:
    for shape in ((2, 3, 19, 16), (1, 5, 6, 37), (3, 1, 40, 8)):
        for into in ("contiguous", "channels_last", None):
            check(Trial(shape, kind, dtype, layout, into, multiprocessors=3))


def test_the_cases_for_mutants_pass() -> None:
    for _, case in cases("variation"):
        case()

# SPDX-License-Identifier: Apache-2.0
"""The Gram matrix's kernels as NVRTC compiles them, run by the interpreter, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from gram_trials import TYPES, Trial, check, execute, numbers, reference
from judged import TRIALS
from ptx.cutting import H100, cut_sums

pytestmark = TRIALS

HALVES = ("float16", "bfloat16")
LONG = 456  # Places of 16-bit features, or twice those of others: more than twice the stages, the last step not full.
# Each kind of partial sums, and whose code is run.
MATHS = [
    ("float16", "exact", "sm_75"),
    ("float16", "exact", "sm_80"),
    ("bfloat16", "exact", "sm_80"),
    ("float32", "tf32", "sm_80"),
    ("float32", "exact", "sm_80"),
]


def described(trial: Trial) -> str:
    layers = "+".join(f"{channels}x{places}" for channels, places in trial.layers)
    layout = f"{trial.layout}+{trial.offset}" if trial.offset else trial.layout
    return f"{trial.arch}-{trial.dtype}-{trial.precision}-{trial.pictures}x{layers}-{layout}-{trial.tile}"


def every_kernel() -> list[Trial]:
    """Every kernel on tensor cores, with a last tile and a last step that are not full."""
    return [
        Trial(
            ((channels, LONG if dtype in HALVES else LONG // 2),),
            dtype,
            precision,
            1,
            layout,
            0,
            arch,
            1,
            tile,
        )
        for dtype, precision, arch in MATHS
        for layout in ("nchw", "nhwc")
        for tile, channels in ((64, 72), (128, 136))
    ]


def without_tensor_cores() -> list[Trial]:
    return [
        Trial(((72, 100),), "bfloat16", arch="sm_75"),
        Trial(((72, 100),), "bfloat16", layout="nhwc", arch="sm_75"),
        Trial(((65, 50),), "float32", "tf32", arch="sm_75", multiprocessors=4),
        Trial(((40, 60),), "float32", layout="nhwc", pictures=2),
        Trial(((40, 60),), "bfloat16", layout="strided", arch="sm_75"),
    ]


def odd_sizes() -> Iterator[Any]:
    """Each number of channels and each of places that is one too many or too few of something, in turn.

    Quickly each in one layout, and each kind of numbers in both.
    """
    channels = (1, 3, 33, 64, 65, 128, 130, 192)
    places = (2049, 1000, 65, 64, 7, 63, 1, 9)
    kinds = [(dtype, precision) for dtype, precision, _ in MATHS[1:]]
    for index, layer in enumerate(zip(channels, places, strict=True)):
        for turn in range(2):
            dtype, precision = kinds[(index + 2 * turn) % 4]
            trial = Trial((layer,), dtype, precision, layout=("nchw", "nhwc")[turn], multiprocessors=3)
            yield pytest.param(trial, marks=pytest.mark.slow if (index + index // 4 + turn) % 2 else ())


def layouts() -> list[Trial]:
    """Rows that are not made of whole, aligned pieces of 16 bytes, and rows of those with something between."""
    return [
        Trial(((20, 203),), "bfloat16", layout="padded"),
        Trial(((20, 203),), "float32", layout="padded"),
        Trial(((21, 70),), "float16", layout="padded", arch="sm_75"),
        Trial(((70, 203),), "bfloat16", layout="padded_last"),
        Trial(((70, 75),), "float32", "tf32", layout="padded_last"),
        Trial(((20, 203),), "float16", layout="strided"),
        Trial(((20, 75),), "float32", layout="strided"),
        Trial(((16, 64),), "float32", offset=4),
        Trial(((16, 64),), "float32", layout="nhwc", offset=8),
        Trial(((16, 64),), "bfloat16", offset=2),
        Trial(((18, 206),), "bfloat16", offset=4),
        Trial(((18, 205),), "bfloat16", layout="nhwc", offset=12),
        Trial(((18, 70),), "float16", offset=4, arch="sm_75"),
        Trial(((16, 64),), "float16", layout="nhwc", offset=8),
    ]


def groups() -> list[Trial]:
    """Layers and pictures in one launch, sliced."""
    return [
        Trial(((130, 40), (3, 300), (64, 128)), "float16", pictures=2, multiprocessors=4, tile=128),
        Trial(((65, 130), (8, 8)), "bfloat16", pictures=3, multiprocessors=4, layout="nhwc"),
        Trial(((12, 33), (20, 200), (5, 64)), "float32", pictures=2, multiprocessors=2),  # Two variants.
        Trial(((66, 96), (3, 40)), "float16", pictures=2, multiprocessors=2, arch="sm_75"),
        Trial(((20, 64 * 11),), "bfloat16", multiprocessors=12),  # More slices than the reduction has groups.
        Trial(((20, 16 * 70), (66, 40)), "float32", multiprocessors=80, arch="sm_75", style=True),
    ]


@pytest.mark.parametrize("trial", every_kernel(), ids=described)
def test_every_kernel_is_as_exact_as_its_type_allows(trial: Trial) -> None:
    kernel = trial.plan().layers[0].variant.kernel
    assert kernel.endswith(f"{trial.layout}_{trial.tile}")
    check(trial)


@pytest.mark.parametrize("trial", without_tensor_cores(), ids=described)
def test_without_tensor_cores_sums_are_those_of_float32(trial: Trial) -> None:
    assert "simt" in trial.plan().layers[0].variant.kernel
    check(replace(trial, precision="exact"))


@pytest.mark.parametrize("trial", list(odd_sizes()), ids=described)
def test_sizes_may_be_any(trial: Trial) -> None:
    check(trial)


@pytest.mark.parametrize("trial", layouts(), ids=described)
def test_features_may_lie_anyhow(trial: Trial) -> None:
    check(trial)


@pytest.mark.parametrize("trial", groups(), ids=described)
def test_layers_and_pictures_do_not_mix(trial: Trial) -> None:
    check(trial)


@pytest.mark.parametrize(
    "trial",
    [
        Trial(
            ((130, 40), (3, 300), (64, 128)), "float16", pictures=2, multiprocessors=4, tile=128, style=True
        ),
        Trial(((20, 70), (33, 40)), "float32", pictures=3, multiprocessors=2, style=True),
        Trial(((1, 1),), "bfloat16", style=True),
    ],
    ids=described,
)
def test_style_loss_is_the_weighted_sum_of_mean_squares(trial: Trial) -> None:
    check(trial)


@pytest.mark.parametrize(
    ("trial", "steps"),
    [
        (Trial(((5, 64 * 140),), "float16", tile=128), 64),
        (Trial(((33, 32 * 140),), "float32", "tf32", layout="nhwc", tile=128), 64),
        (Trial(((5, 32 * 400 + 3),), "float32", tile=64), 4 * 32),  # On the diagonal each warp has a fourth.
    ],
    ids=["float16", "tf32", "exact"],
)
def test_sums_of_many_steps_go_on_in_memory(trial: Trial, steps: int) -> None:
    (layer,) = trial.plan().layers
    assert layer.slice > steps * layer.variant.step
    check(trial)


def plain_sums(values: Any) -> Any:
    """Gram matrices by float32 sums, one product after the other."""
    sums = np.zeros((values.shape[1], values.shape[1]), np.float32)
    for column in values[0].T:
        sums += np.multiply.outer(column, column)
    return sums / np.float32(values.shape[2])


@pytest.mark.parametrize("mean", [0.0, 1.0])
@pytest.mark.parametrize("places", [64, 500, 2000])
def test_3xtf32_errs_at_most_twice_as_much_as_float32_sums(places: int, mean: float) -> None:
    values = (np.random.default_rng(3).standard_normal((1, 16, places)) + mean).astype(np.float32)
    trial = Trial(((16, places),), "float32", "exact")
    assert "exact" in trial.plan().layers[0].variant.kernel
    exact = reference(values.astype(np.float64))[0]
    with cut_sums():
        made = execute(trial, [values]).grams[0][0]
    allowed = 2 * np.abs(plain_sums(values) - exact)
    assert np.abs(made - exact).max() <= allowed.max()
    assert np.abs(made - exact).mean() <= allowed.mean()


@pytest.mark.parametrize(
    ("dtype", "precision"), [("float16", "exact"), ("bfloat16", "exact"), ("float32", "tf32")]
)
def test_what_tensor_cores_cut_off_does_not_grow_with_the_places(dtype: str, precision: str) -> None:
    trial = Trial(((8, 9_000),), dtype, precision)
    values = (np.random.default_rng(3).standard_normal((1, 8, 9_000)) + 1).astype(TYPES[dtype])
    exact = reference(values.astype(np.float64))[0]
    with cut_sums():
        made = execute(trial, [values]).grams[0][0]
    assert np.abs(made / exact - 1).max() < 1e-4  # Twice as much where sums never leave the tensor cores.


@pytest.mark.parametrize(
    ("trial", "measured"),
    [
        (Trial(((5, 64 * 140),), "float16", tile=128), 1.94e-5),
        (Trial(((5, 64 * 2 * 79),), "bfloat16", arch="sm_90a"), 9.6e-6),
    ],
    ids=["mma", "wgmma"],
)
def test_tensor_cores_are_modelled_as_exactly_as_an_h100_was_measured(trial: Trial, measured: float) -> None:
    with cut_sums(H100):
        made = check(trial).grams[0]
    exact = reference(numbers(trial)[0].astype(np.float64))
    error = np.abs(made / exact - 1).diagonal(axis1=1, axis2=2).max()
    assert error == pytest.approx(measured, rel=5e-3)


def test_halves_beyond_their_own_range_are_summed_in_float32() -> None:
    values = np.full((1, 3, 80), 60_000, np.float16)
    values[0, 1] = 6e-8  # The smallest there is.
    values[0, 2, ::2] *= -1
    check(Trial(((3, 80),), "float16"), [values])


@pytest.mark.parametrize("precision", ["exact", "tf32"])
def test_float32_far_from_one_is_summed_as_float32_is(precision: str) -> None:
    values = numbers(Trial(((4, 100),)))[0]
    for scale in (1e-15, 1e15):
        check(Trial(((4, 100),), "float32", precision), [(values * np.float32(scale)).astype(np.float32)])
    tiny = execute(Trial(((4, 100),), "float32", precision), [(values * 1e-30).astype(np.float32)]).grams[0]
    assert (tiny == 0).all()


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [("float16", "exact"), ("bfloat16", "exact"), ("float32", "exact"), ("float32", "tf32")],
)
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_is_not_finite_stays_so_and_where_it_is(dtype: str, precision: str, bad: float) -> None:
    trial = Trial(((6, 80),), dtype, precision)
    values = numbers(trial)[0]
    values[0, 2, 5] = bad
    made = execute(trial, [values]).grams[0][0]
    touched = np.zeros((6, 6), bool)
    touched[2] = touched[:, 2] = True
    np.testing.assert_array_equal(np.isfinite(made), ~touched)


def test_overflowing_products_are_infinite() -> None:
    made = execute(Trial(((2, 70),)), [np.full((1, 2, 70), 1e20, np.float32)]).grams[0]
    assert not np.isfinite(made).any()


@pytest.mark.parametrize("dtype", TYPES)
def test_the_same_input_gives_the_same_bits_in_any_order_of_blocks(dtype: str) -> None:
    trial = Trial(((66, 300),), dtype, pictures=2, multiprocessors=3, style=True)
    values = numbers(trial)
    first, second = (execute(replace(trial, at_once=blocks), values) for blocks in (1, 3))
    np.testing.assert_array_equal(first.grams[0], second.grams[0])
    np.testing.assert_array_equal(first.loss, second.loss)


def test_other_architectures_run_the_same_code() -> None:
    check(Trial(((66, 100),), "bfloat16", arch="sm_120"))

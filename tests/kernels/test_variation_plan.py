# SPDX-License-Identifier: Apache-2.0
"""The plan of the total variation: every pixel once, within a grid's limits, and the same in C++."""

from __future__ import annotations

import ctypes
import random
import subprocess
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import twin

from gantk.errors import GantkError, UsageError
from gantk.kernels.launch import ELEMENT_BYTES, Device
from gantk.kernels.parameters import VARIATION_THREADS, VariationParameters
from gantk.kernels.variation_plan import KINDS, Pictures, VariationPlan, plan_variation

H200 = Device((9, 0), 132, 232_448)
DTYPES = tuple(ELEMENT_BYTES)
LAYOUTS = (Pictures.contiguous, Pictures.channels_last)


def parameters(plan: VariationPlan) -> VariationParameters:
    return VariationParameters.from_buffer_copy(plan.parameters)


def transposed(dtype: str, n: int, c: int, h: int, w: int) -> Pictures:
    """Pictures whose columns are contiguous."""
    return Pictures(dtype, (n, c, h, w), (c * h * w, h * w, 1, h))


def visits(plan: VariationPlan, pack: int) -> np.ndarray[Any, Any]:
    """How often each element of the pictures' memory is some thread's own, as the kernels divide the work."""
    p = parameters(plan)
    strides = np.array(p.picture_strides)
    count = np.zeros(p.batch * p.channels * p.height * p.width, int)
    column = np.arange(p.column_blocks * VARIATION_THREADS)
    column = column[column < p.columns]
    across = p.width // pack
    channel = column % p.channels if p.channels_fastest else column // across
    x = (column // p.channels if p.channels_fastest else column % across) * pack
    for y in range(plan.grid[1] * plan.grid[2]):
        for band in range(p.blocks // p.column_blocks if y < p.batch else 0):
            for row in range(band * p.rows, min(p.height, (band + 1) * p.rows)):
                for i in range(pack):
                    at = y * strides[0] + channel * strides[1] + row * strides[2] + (x + i) * strides[3]
                    np.add.at(count, at, 1)
    return count


@given(
    shape=st.tuples(*(st.integers(1, most) for most in (3, 5, 150, 300))),
    layout=st.sampled_from([*LAYOUTS, transposed]),
    dtype=st.sampled_from(DTYPES),
    multiprocessors=st.integers(1, 200),
)
def test_every_pixel_is_one_threads_own(
    shape: tuple[int, ...], layout: Any, dtype: str, multiprocessors: int
) -> None:
    pictures = layout(dtype, *shape)
    plan = plan_variation(pictures, "l1", 0, replace(H200, multiprocessors=multiprocessors), pictures)
    pack = 16 // ELEMENT_BYTES[dtype] if "packed" in plan.kernel else 1
    assert (visits(plan, pack) == 1).all()
    bands = parameters(plan).blocks // parameters(plan).column_blocks
    assert (bands - 1) * parameters(plan).rows < parameters(plan).height


@given(
    shape=st.tuples(*(st.integers(1, 2**14) for _ in range(4))),
    layout=st.sampled_from(LAYOUTS),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(KINDS),
    wants=st.booleans(),
)
def test_grids_and_workspaces_keep_their_limits(
    shape: tuple[int, ...], layout: Any, dtype: str, kind: str, wants: bool
) -> None:
    try:
        pictures = layout(dtype, *shape)
        plan = plan_variation(pictures, kind, 1e-8, H200, pictures if wants else None)
    except GantkError as error:
        assert "2^48" in str(error)
        return
    x, y, z = plan.grid
    assert 1 <= x <= 2**31 - 1
    assert 1 <= y <= 65535
    assert 1 <= z <= 65535
    assert y * z >= shape[0]
    assert x == parameters(plan).blocks
    assert plan.workspace_bytes == (4 * x * shape[0] if x > 1 else 0)
    assert plan.kernel.endswith("_gradient") is wants
    launches = plan.launches(16, 16, 16, 16)
    assert len(launches) == (2 if x > 1 else 1)
    assert len(plan.launches(16, 16, 16, 16, counters=16)) == 1
    assert all(launch.unit == "variation" for launch in launches)


@pytest.mark.parametrize(("wants", "fit"), [(False, 8), (True, 5)], ids=["value", "gradient"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [256, 512, 1024, 2048])
def test_all_multiprocessors_work_and_large_pictures_are_read_once(
    dtype: str, size: int, wants: bool, fit: int
) -> None:
    pictures = Pictures.contiguous(dtype, 1, 3, size, size)
    plan = plan_variation(pictures, "l1", 0, H200, pictures if wants else None)
    assert plan.grid[0] >= 0.95 * H200.multiprocessors
    if size == 2048:
        # What a band reads beyond its own rows; its neighbour reads that too, and both work at the same time.
        assert (1 + wants) / parameters(plan).rows < 0.11
        waves = plan.grid[0] / (fit * H200.multiprocessors)
        assert 0.93 <= waves <= 1


@pytest.mark.parametrize(
    ("pictures", "kernel"),
    [
        (Pictures.contiguous("float32", 1, 3, 5, 8), "packed"),
        (Pictures.contiguous("float32", 1, 3, 5, 6), "strided"),
        (Pictures.contiguous("float16", 1, 3, 5, 8), "packed"),
        (Pictures.contiguous("bfloat16", 1, 3, 5, 12), "strided"),
        (Pictures.channels_last("float32", 1, 3, 8, 8), "strided"),
        (Pictures.channels_last("float32", 1, 1, 8, 8), "packed"),  # One channel lies the same both ways.
        (transposed("float32", 1, 3, 8, 5), "packed"),
        (Pictures.contiguous("float32", 1, 3, 5000, 1), "packed"),
        (Pictures("float32", (1, 3, 5, 8), (999, 40, 8, 1)), "packed"),  # Nothing lies a batch of one apart.
        (Pictures("float32", (2, 3, 5, 8), (121, 40, 8, 1)), "strided"),
        (Pictures("float32", (2, 3, 5, 8), (120, 42, 8, 1)), "strided"),
        (Pictures("float32", (2, 3, 5, 8), (240, 80, 16, 2)), "strided"),
        (Pictures("float32", (2, 3, 5, 8), (160, 48, 9, 1)), "strided"),
        (Pictures("float32", (1, 3, 5, 8), (120, 40, 8, 1), alignment=8), "strided"),
        (Pictures("float32", (4, 3, 5, 8), (0, 40, 8, 1)), "packed"),  # One picture, shown four times.
    ],
    ids=str,
)
def test_packs_are_taken_where_they_are_aligned(pictures: Pictures, kernel: str) -> None:
    assert kernel in plan_variation(pictures, "l2", 0, H200).kernel


def test_a_gradient_that_lies_otherwise_is_written_so() -> None:
    pictures = Pictures.contiguous("float32", 2, 3, 6, 8)
    gradient = Pictures.channels_last("float32", 2, 3, 6, 8)
    plan = plan_variation(pictures, "l1", 0, H200, gradient)
    assert plan.kernel == "gantk_variation_strided_float32_gradient"
    assert tuple(parameters(plan).picture_strides) == pictures.strides
    assert tuple(parameters(plan).gradient_strides) == gradient.strides


def test_counters_go_where_they_are_of_use() -> None:
    small = plan_variation(Pictures.contiguous("float32", 3, 1, 1, 4), "l1", 0, H200)
    assert (small.workspace_bytes, small.counters) == (0, 0)
    (launch,) = small.launches(1, 2, counters=3)
    assert launch.parameters.counters == 0
    large = plan_variation(Pictures.contiguous("float32", 3, 3, 64, 64), "l1", 0, H200)
    assert large.counters == 3
    (launch,) = large.launches(1, 2, workspace=4, counters=5)
    assert (launch.parameters.partials, launch.parameters.counters) == (4, 5)
    first, second = large.launches(1, 2, workspace=4)
    assert first.parameters.counters == 0
    assert second.kernel == "gantk_variation_finish"
    assert second.grid == (1, 3, 1)


@pytest.mark.parametrize(
    ("eps", "held"), [(1e-8, 1e-8), (1e-60, 2.0**-126), (1e60, 3.4028234663852886e38), (2.0**-130, 2.0**-126)]
)
def test_eps_becomes_a_normal_number(eps: float, held: float) -> None:
    plan = plan_variation(Pictures.contiguous("float32", 1, 1, 4, 4), "isotropic", eps, H200)
    assert parameters(plan).eps == ctypes.c_float(held).value


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: Pictures.contiguous("float64", 1, 1, 4, 4),
            "float64; the kernels take float32, float16, bfloat16",
        ),
        (lambda: Pictures.contiguous("float32", 0, 1, 4, 4), r"shape \[0, 1, 4, 4\]"),
        (lambda: Pictures("float32", (1, 1, 4, 4), (16, 16, -4, 1)), r"strides \[16, 16, -4, 1\]"),
        (lambda: Pictures("float32", (1, 1, 4, 4), (16, 16, 4, 1), 2), "aligned to 2 bytes; at least 4"),
        (lambda: Pictures.contiguous("float32", 1, 1, 2**25, 2**25), "more than 2\\^48"),
        (lambda: plan_variation(Pictures.contiguous("float32", 1, 1, 4, 4), "l3", 0, H200), "'l3'; allowed"),
        (
            lambda: plan_variation(Pictures.contiguous("float32", 1, 1, 4, 4), "isotropic", 0, H200),
            "eps is 0",
        ),
        (
            lambda: plan_variation(
                Pictures.contiguous("float32", 1, 1, 4, 4), "isotropic", float("nan"), H200
            ),
            "eps is nan",
        ),
        (
            lambda: plan_variation(
                *(Pictures.contiguous("float32", 1, 1, 4, 4), "l1", 0, H200),
                Pictures.contiguous("float32", 1, 1, 4, 5),
            ),
            r"gradient is float32\[1, 1, 4, 5\]; float32\[1, 1, 4, 4\] is wanted",
        ),
        (
            lambda: plan_variation(Pictures("float32", (2**33, 1, 1, 1), (1, 1, 1, 1)), "l1", 0, H200),
            "more blocks than a grid has",
        ),
    ],
)
def test_what_cannot_be_planned_is_refused_in_words(make: Any, words: str) -> None:
    with pytest.raises((GantkError, UsageError), match=words):
        make()


def cases(count: int) -> list[tuple[Pictures, Pictures, str, float, int, bool]]:
    """Pictures of any size and layout, usual ones more often, some too large."""
    rng = random.Random(4)
    found = []
    while len(found) < count:
        most = rng.choice([2, 9, 40, 600, 2**13, 2**20])
        shape = tuple(rng.choice([1, 8, rng.randint(1, most), 64 * rng.randint(1, most)]) for _ in range(4))
        dtype = rng.choice(DTYPES)
        try:
            laid = [rng.choice([*LAYOUTS, transposed, scattered])(dtype, *shape) for _ in range(2)]
            laid = [replace(each, alignment=rng.choice([4, 8, 16, 16, 16])) for each in laid]
        except GantkError:
            continue  # Such pictures are not made; the C++ plan refuses them.
        if rng.random() < 0.5:
            laid[1] = laid[0]
        eps = rng.choice([1e-8, 0.25, 1e-42, 1e39, 3.0])
        found.append((laid[0], laid[1], rng.choice(KINDS), eps, rng.randint(1, 200), rng.random() < 0.5))
    return found


def scattered(dtype: str, n: int, c: int, h: int, w: int) -> Pictures:
    """Strides as of slices and turns: any order, with gaps."""
    rng = random.Random(n + c + h + w)
    strides, step = [0] * 4, rng.randint(0, 3)
    for axis in rng.sample(range(4), 4):
        strides[axis] = step
        step = step * (n, c, h, w)[axis] + rng.choice([0, 0, 1, 8])
    return Pictures(dtype, (n, c, h, w), (strides[0], strides[1], strides[2], strides[3]))


def line(case: tuple[Pictures, Pictures, str, float, int, bool]) -> str:
    *laid, kind, eps, multiprocessors, wants = case
    told = [
        " ".join(map(str, (DTYPES.index(each.dtype), *each.shape, *each.strides, each.alignment)))
        for each in laid
    ]
    return f"{told[0]} {told[1]} {KINDS.index(kind)} {eps!r} {multiprocessors} {int(wants)}"


def planned(case: tuple[Pictures, Pictures, str, float, int, bool]) -> str:
    """Python's plan, as the C++ program prints its own."""
    pictures, gradient, kind, eps, multiprocessors, wants = case
    device = replace(H200, multiprocessors=multiprocessors)
    try:
        plan = plan_variation(pictures, kind, eps, device, gradient if wants else None)
    except GantkError:
        return "refused"
    both = [plan.launches(16, 32, 48, 64, counters) for counters in (0, 80)]
    given = bytes(both[1][0].parameters).hex()
    counts = " ".join(str(len(launches)) for launches in both)
    counts += f" {int(both[1][0].dependent)}{int(both[0][-1].dependent)}"
    return f"{plan.kernel} {' '.join(map(str, plan.grid))} {plan.workspace_bytes} {plan.counters} {counts} {given}"


def ask(lines: list[str]) -> list[str]:
    program = twin("variation_twin", "-Wconversion")
    done = subprocess.run(program, input="\n".join(lines), capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_the_plan_in_cpp_is_the_same() -> None:
    some = cases(4000)
    answers = ask([line(case) for case in some])
    assert len(answers) == len(some)
    for case, answer in zip(some, answers, strict=True):
        assert answer == planned(case), case
    kernels = {answer.partition(" ")[0] for answer in answers}
    assert len(kernels) >= 24  # Of all there are: 18 of packs, 6 of strides.


def test_what_python_refuses_cpp_refuses() -> None:
    fine = line((*[Pictures.contiguous("float32", 1, 3, 4, 8)] * 2, "l1", 1e-8, 132, True))
    wrong = [
        fine.replace("0 1 3 4 8", "0 0 3 4 8"),
        fine.replace("0 1 3 4 8", "0 1 3 4 -8"),
        fine.replace("32 8 1 16", "32 -8 1 16"),
        fine.replace("0 1 3 4 8", f"0 1 {2**16} {2**16} {2**17}"),
        fine.replace("32 8 1 16", f"32 {2**47} 1 16"),
        fine.replace("16 0 1 3 4 8", "16 0 1 3 4 16"),
        fine.replace("16 0 1 3 4 8", "16 1 1 3 4 8"),
        fine.replace(" 0 1e-08", " 2 0.0"),
        fine.replace(" 0 1e-08", " 2 -1.0"),
    ]
    assert fine not in wrong
    assert ask([fine])[0].startswith("gantk_variation_l1_packed_float32_gradient 2 1 1 8 1 ")
    assert ask(wrong) == ["refused"] * len(wrong)

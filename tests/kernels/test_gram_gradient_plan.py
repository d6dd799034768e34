# SPDX-License-Identifier: Apache-2.0
"""The plan of the gradient: every result in exactly one block, within a device's limits, and the same in C++."""

from __future__ import annotations

import ctypes
import random
import subprocess
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import twin

from gantk.errors import GantkError, UsageError
from gantk.kernels.gram_gradient_plan import (
    WORKSPACE_BYTES,
    GradientStyle,
    GramGradientPlan,
    plan_gram_gradient,
)
from gantk.kernels.launch import ELEMENT_BYTES, PRECISIONS, Device, Features, Launch

T4, A100 = Device((7, 5), 40, 65_536), Device((8, 0), 108, 166_912)
RTX, H200 = Device((8, 9), 128, 101_376), Device((9, 0), 132, 232_448)
DEVICES = (T4, A100, RTX, H200, Device((12, 0), 3, 101_376))
WORKSPACE, UPSTREAM = 1 << 40, 1 << 41


def loose(dtype: str, pictures: int, channels: int, places: int) -> Features:
    """Features that are dense along nothing."""
    return Features(dtype, (pictures, channels, places), (channels * places * 6, places * 3, 2))


LAYOUTS = (Features.contiguous, Features.channels_last, loose)


def random_layers(draw: random.Random, most_places: int) -> list[Features]:
    dtype, pictures = draw.choice(list(ELEMENT_BYTES)), int(2 ** draw.uniform(0, 6))
    layers = []
    for _ in range(draw.choice([1, 1, 2, 4, 8])):
        channels = int(2 ** draw.uniform(0, 10))
        places = int(2 ** draw.uniform(0, most_places.bit_length() - 1))
        layer = draw.choice(LAYOUTS)(dtype, pictures, channels, places)
        layers.append(Features(dtype, layer.shape, layer.strides, draw.choice([4, 8, 16, 16])))
    return layers


def planned(draw: random.Random, most_places: int = 2**22) -> tuple[GramGradientPlan, Device]:
    device = draw.choice(DEVICES)
    return plan_gram_gradient(random_layers(draw, most_places), device, draw.choice(PRECISIONS)), device


def launches(plan: GramGradientPlan, style: bool = False) -> tuple[Launch, ...]:
    bases = [(index + 1) << 44 for index in range(len(plan.layers))]
    upstream = GradientStyle([0.1 * (index + 1) for index in range(len(bases))], UPSTREAM, 5)
    return plan.launches(
        [base + 4096 for base in bases],
        bases,
        [base + 8192 for base in bases],
        WORKSPACE,
        gradient_strides=[(7, 3, 2)] * len(bases) if style else None,
        style=upstream if style else None,
    )


@given(seed=st.integers(0, 2**32))
def test_every_result_is_one_blocks_and_every_slope_one_strips(seed: int) -> None:
    """Blocks are decoded as the kernels decode them."""
    plan, _ = planned(random.Random(seed), 2**12)
    found = {index: np.zeros(layer.features.shape[1:], int) for index, layer in enumerate(plan.layers)}
    strips = {index: np.zeros(layer.rows, int) for index, layer in enumerate(plan.layers)}
    for launch in launches(plan):
        if launch.parameters.layers[0].features % 2**44:
            break  # Of further pictures.
        given = [launch.parameters.layers[index] for index in range(launch.parameters.count)]
        slopes = "slopes" in launch.kernel
        firsts = [one.first_strip if slopes else one.first_block for one in given]
        for block in range(launch.grid[0]):
            number = max(index for index, first in enumerate(firsts) if first <= block)
            one, local = given[number], block - firsts[number]
            index = (one.features >> 44) - 1
            if slopes:
                strips[index][local * 8 : local * 8 + 8] += 1
                continue
            layer = plan.layers[index]
            top, span = local % (one.rows // layer.tile) * layer.tile, local // (one.rows // layer.tile)
            left = span * one.span * layer.places
            found[index][top : top + layer.tile, left : left + one.span * layer.places] += 1
    assert all((counts == 1).all() for counts in found.values())
    assert all((counts == 1).all() for counts in strips.values())


@given(seed=st.integers(0, 2**32))
def test_launches_keep_the_limits_of_the_device(seed: int) -> None:
    plan, device = planned(random.Random(seed))
    for launch in launches(plan):
        assert 1 <= launch.grid[0] <= 2**31 - 1
        assert 1 <= launch.grid[1] <= 65535
        assert launch.grid[2] == 1
        assert launch.block == (256, 1, 1)
        assert launch.shared_bytes <= device.shared_bytes
        assert (launch.shared_bytes > 0) == ("nchw" in launch.kernel or "nhwc" in launch.kernel)
    for kernel in {launch.kernel for launch in launches(plan)}:
        assert sum(launch.grid[1] for launch in launches(plan) if launch.kernel == kernel) == plan.pictures
    for layer in plan.layers:
        steps = layer.columns * ELEMENT_BYTES[layer.slope] // 128
        stages = 3 if device.compute_capability >= (8, 0) else 2
        slots = steps if layer.resident else stages
        if layer.places == 128:
            assert layer.shared_bytes == stages * 128 * 128 + slots * layer.tile * 128


@given(seed=st.integers(0, 2**32))
def test_parts_of_the_workspace_are_apart_and_within(seed: int) -> None:
    plan, _ = planned(random.Random(seed))
    parts = []
    for layer in plan.layers:
        size = plan.at_once * layer.rows * layer.columns * ELEMENT_BYTES[layer.slope]
        parts.append((layer.slopes_offset, layer.slopes_offset + size))
        if layer.slope == "float16":
            parts.append((layer.units_offset, layer.units_offset + plan.at_once * layer.rows * 4))
    assert all(start % 256 == 0 for start, _ in parts)
    assert all(end <= start for (_, end), (start, _) in pairwise(sorted(parts)))
    assert max(end for _, end in parts) <= plan.workspace_bytes
    assert plan.workspace_bytes <= WORKSPACE_BYTES or plan.at_once == 1


@pytest.mark.parametrize("device", DEVICES)
def test_layers_of_a_style_loss_are_two_launches(device: Device) -> None:
    sizes = [(64, 2**16), (128, 2**14), (256, 2**12), (512, 2**10)]
    plan = plan_gram_gradient([Features.contiguous("float16", 1, *size) for size in sizes], device)
    names = [launch.kernel for launch in launches(plan)]
    assert names == ["gantk_gram_slopes_f16", "gantk_gram_gradient_f16_nchw"]


def test_slopes_stay_in_shared_memory_where_two_blocks_a_multiprocessor_still_fit() -> None:
    def resident(device: Device, dtype: str, channels: int) -> tuple[bool, int]:
        plan = plan_gram_gradient([Features.contiguous(dtype, 1, channels, 2**22)], device)
        return plan.layers[0].resident, (device.shared_bytes + 1024) // (plan.layers[0].shared_bytes + 1024)

    assert resident(H200, "bfloat16", 64) == (True, 4)
    assert resident(H200, "bfloat16", 256) == (True, 2)
    assert resident(H200, "bfloat16", 512) == (False, 2)
    assert resident(H200, "float32", 128) == (True, 2)
    assert resident(A100, "bfloat16", 128) == (True, 2)
    assert resident(RTX, "bfloat16", 512) == (False, 1)
    assert resident(T4, "float16", 512) == (False, 1)


def test_many_pictures_come_in_launches_that_the_workspace_holds() -> None:
    layer = Features.channels_last("float16", 70_000, 130, 10)
    plan = plan_gram_gradient([layer], H200)
    assert plan.at_once < 65535
    first, _, second, *_ = launches(plan, style=True)
    one, two = first.parameters.layers[0], second.parameters.layers[0]
    assert two.features - one.features == two.result - one.result == plan.at_once * 1300 * 2
    assert two.gradient - one.gradient == plan.at_once * 7 * 4
    assert two.upstream - one.upstream == plan.at_once * 5 * 4
    assert (two.slopes, two.units) == (one.slopes, one.units)


@pytest.mark.parametrize(
    ("features", "device", "precision", "kernel"),
    [
        (Features.contiguous("float16", 1, 64, 256), T4, "exact", "gantk_gram_gradient_f16_nchw"),
        (Features.contiguous("bfloat16", 1, 64, 256), T4, "exact", "gantk_gram_gradient_simt_bf16"),
        (Features.contiguous("float32", 1, 64, 256), T4, "tf32", "gantk_gram_gradient_simt_f32"),
        (Features.contiguous("float32", 1, 64, 256), A100, "exact", "gantk_gram_gradient_exact_nchw"),
        (Features.channels_last("float32", 1, 64, 256), A100, "tf32", "gantk_gram_gradient_tf32_nhwc"),
        (Features.channels_last("bfloat16", 1, 1, 256), RTX, "exact", "gantk_gram_gradient_bf16_nchw"),
        (Features.contiguous("bfloat16", 1, 64, 1), RTX, "exact", "gantk_gram_gradient_bf16_nchw"),
        (loose("float16", 1, 64, 256), H200, "exact", "gantk_gram_gradient_simt_f16"),
    ],
)
def test_the_kernel_suits_features_and_device(
    features: Features, device: Device, precision: str, kernel: str
) -> None:
    assert launches(plan_gram_gradient([features], device, precision))[-1].kernel == kernel


@pytest.mark.parametrize(
    ("features", "load_bytes"),
    [
        (Features("float32", (2, 3, 8), (24, 8, 1), 16), 16),
        (Features("float32", (2, 3, 8), (24, 8, 1), 4), 4),
        (Features("float32", (2, 3, 7), (21, 7, 1), 16), 4),
        (Features("float16", (2, 3, 8), (24, 8, 1), 16), 16),
        (Features("float16", (2, 3, 6), (18, 6, 1), 16), 4),
        (Features("float16", (2, 3, 7), (21, 7, 1), 16), 2),
        (Features("float16", (1, 1, 7), (7, 7, 1), 16), 16),  # Pitches that nothing is at.
        (Features("bfloat16", (2, 8, 5), (40, 1, 8), 16), 16),
        (Features("bfloat16", (2, 8, 5), (44, 1, 8), 16), 4),
        (Features("bfloat16", (2, 7, 5), (35, 1, 7), 16), 2),
    ],
)
def test_features_are_read_in_the_largest_pieces_that_are_aligned(
    features: Features, load_bytes: int
) -> None:
    assert launches(plan_gram_gradient([features], H200))[0].parameters.layers[0].load_bytes == load_bytes


def test_four_results_are_stored_at_once_where_rows_allow() -> None:
    def vectorised(dtype: str, strides: tuple[int, int, int], alignment: int) -> int:
        features = Features.contiguous(dtype, 2, 3, 8)
        result = Features(dtype, (2, 3, 8), strides, alignment)
        plan = plan_gram_gradient([features], H200, results=[result])
        return int(launches(plan)[0].parameters.layers[0].vectorised)

    assert vectorised("float32", (24, 8, 1), 16) == 1
    assert vectorised("float32", (24, 8, 1), 8) == 0
    assert vectorised("float16", (24, 8, 1), 8) == 1
    assert vectorised("float16", (27, 9, 1), 16) == 0
    assert vectorised("float16", (24, 1, 3), 16) == 0


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "0 layers"),
        ([Features.contiguous("float32", 1, 1, 1)] * 9, "9 layers"),
        ([Features.contiguous("float32", 1, 65_537, 1)], "65537 channels; at most 65536"),
        ([Features.contiguous("float32", n, 2, 2) for n in (1, 2)], "1 and of 2 pictures"),
        ([Features.contiguous("float32", 1, 2, 2**42)], "more blocks than a launch may have"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_words(layers: list[Features], words: str) -> None:
    with pytest.raises(GantkError, match=words):
        plan_gram_gradient(layers, H200)


def test_results_and_precisions_that_do_not_go_with_features_are_refused_in_words() -> None:
    features = Features.contiguous("float32", 1, 2, 4)
    with pytest.raises(UsageError, match="'half'; allowed are exact, tf32"):
        plan_gram_gradient([features], H200, "half")
    for result in (Features.contiguous("float32", 1, 2, 5), Features.contiguous("float16", 1, 2, 4)):
        with pytest.raises(GantkError, match=r"float32 \[1, 2, 4\] as the features is wanted"):
            plan_gram_gradient([features], H200, results=[result])


def described(plan: GramGradientPlan, style: bool) -> list[str]:
    """A plan as gram_gradient_twin.cpp prints it."""
    lines = [f"{plan.at_once} {plan.workspace_bytes}"]
    for launch in launches(plan, style):
        content = ctypes.string_at(
            ctypes.addressof(launch.parameters), ctypes.sizeof(launch.parameters)
        ).hex()
        grid = " ".join(map(str, launch.grid))
        lines.append(
            f"{launch.unit} {launch.kernel} {grid} {launch.block[0]} {launch.shared_bytes} "
            f"{int(launch.dependent)} {content}"
        )
    return [*lines, "."]


def test_the_plan_of_cpp_is_the_same() -> None:
    draw, questions, wanted = random.Random(5), [], []
    for _ in range(1000):
        device, precision, style = draw.choice(DEVICES), draw.choice(PRECISIONS), draw.random() < 0.5
        layers = random_layers(draw, 2**30)
        numbers: list[int] = [*device.compute_capability, device.multiprocessors, device.shared_bytes]
        numbers += [PRECISIONS.index(precision), int(style), len(layers)]
        for layer in layers:
            numbers += [list(ELEMENT_BYTES).index(layer.dtype), *layer.shape, *layer.strides, layer.alignment]
        questions.append(" ".join(map(str, numbers)))
        wanted += described(plan_gram_gradient(layers, device, precision), style)
    program = twin("gram_gradient_twin")
    done = subprocess.run(program, input="\n".join(questions), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == wanted

# SPDX-License-Identifier: Apache-2.0
"""The plan of Gram matrices: every product in exactly one block, within a device's limits, and the same in C++."""

from __future__ import annotations

import ctypes
import random
import subprocess
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twins import twin

from gantk.errors import GantkError, UsageError
from gantk.kernels.gram_cut import LayerPlan
from gantk.kernels.gram_plan import WORKSPACE_BYTES, GramPlan, GramTargets, plan_gram
from gantk.kernels.launch import ELEMENT_BYTES, PRECISIONS, Device, Features, TensorMap
from gantk.kernels.parameters import GramLayer

T4, A100 = Device((7, 5), 40, 65_536), Device((8, 0), 108, 166_912)
RTX, H200 = Device((8, 9), 128, 101_376), Device((9, 0), 132, 232_448)
DEVICES = (T4, A100, RTX, H200, Device((12, 0), 3, 101_376))
LARGE = Device((8, 0), 132, 166_912)  # As many multiprocessors as Hopper's, without its kernels.
LAYOUTS = (Features.contiguous, Features.channels_last)
WORKSPACE = 1 << 40


def random_layers(draw: random.Random, most_places: int = 2**22) -> list[Features]:
    """Layers as one group has them: of the same pictures and type."""
    dtype, pictures = draw.choice(list(ELEMENT_BYTES)), int(2 ** draw.uniform(0, 6))
    layers = []
    for _ in range(draw.choice([1, 1, 2, 4, 8])):
        channels, places = (
            int(2 ** draw.uniform(0, 10)),
            int(2 ** draw.uniform(0, most_places.bit_length() - 1)),
        )
        layer = draw.choice(LAYOUTS)(dtype, pictures, channels, places)
        alignment = draw.choice([4, 8, 16, 16, 16])
        layers.append(Features(layer.dtype, layer.shape, layer.strides, alignment))
    return layers


def planned(draw: random.Random, most_places: int = 2**22) -> tuple[GramPlan, Device]:
    device = draw.choice(DEVICES)
    layers = random_layers(draw, most_places)
    return plan_gram(layers, device, draw.choice(PRECISIONS), style=draw.random() < 0.5), device


def addresses(plan: GramPlan) -> list[int]:
    return [(index + 1) << 44 for index in range(len(plan.layers))]


def launches(plan: GramPlan):
    bases = addresses(plan)
    targets = None
    if plan.style:
        squares = [layer.features.shape[1] ** 2 for layer in plan.layers]
        targets = GramTargets(
            targets=[base + 8192 for base in bases],
            strides=[0 if index % 2 == 0 else square for index, square in enumerate(squares)],
            weights=[0.1 * (index + 1) for index in range(len(bases))],
            loss=1 << 41,
        )
    return plan.launches(bases, [base + 4096 for base in bases], WORKSPACE, targets=targets)


def work_of_blocks(launch) -> list[tuple[GramLayer, int, int]]:
    """What each block of a partial launch does, decoded as `gram_work` of the kernels does: layer, tile, split."""
    given = [launch.parameters.layers[index] for index in range(launch.parameters.count)]
    work = []
    for block in range(launch.grid[0]):
        layer = [each for each in given if each.first_block <= block][-1]
        split, tile = divmod(block - layer.first_block, layer.tiles)
        work.append((layer, tile, split))
    return work


@given(seed=st.integers(0, 2**32))
def test_every_tile_and_slice_of_every_layer_is_one_blocks(seed: int) -> None:
    plan, _ = planned(random.Random(seed), 2**16)
    if plan.layers[0].hopper:
        return  # Those blocks have larger pieces: `test_gram_sm90.py`.
    first = [each for each in launches(plan) if "reduce" not in each.kernel and "finish" not in each.kernel]
    first = first[
        : len({layer.variant for layer in plan.layers})
    ]  # The other launches are of other pictures.
    done = [
        (layer.features, tile, split) for launch in first for layer, tile, split in work_of_blocks(launch)
    ]
    wanted = [
        (address, tile, split)
        for address, layer in zip(addresses(plan), plan.layers, strict=True)
        for tile in range(layer.tiles)
        for split in range(layer.splits)
    ]
    assert sorted(done) == sorted(wanted)


@given(seed=st.integers(0, 2**32))
def test_tiles_cover_the_triangle_and_slices_the_places_once(seed: int) -> None:
    plan, _ = planned(random.Random(seed))
    for layer in plan.layers:
        _, channels, places = layer.features.shape
        rows = -(-channels // layer.variant.tile)
        assert layer.tiles == rows * (rows + 1) // 2
        assert (rows - 1) * layer.variant.tile < channels
        assert (layer.splits - 1) * layer.slice < places <= layer.splits * layer.slice
        assert layer.slice % layer.variant.step == 0
        assert layer.slice <= 2**30


@given(seed=st.integers(0, 2**32))
def test_launches_keep_the_limits_of_the_device(seed: int) -> None:
    plan, device = planned(random.Random(seed))
    for launch in launches(plan):
        assert 1 <= launch.grid[0] <= 2**31 - 1
        assert 1 <= launch.grid[1] <= 65535
        assert launch.grid[2] == 1
        assert launch.block in ((128, 1, 1), (256, 1, 1), (384, 1, 1))
        assert launch.shared_bytes <= device.shared_bytes
        if "simt" in launch.kernel:
            assert launch.shared_bytes == 0
            assert launch.unit == "gram"
    partial = sum(launch.grid[1] for launch in launches(plan) if "reduce" in launch.kernel)
    assert partial == plan.pictures


@given(seed=st.integers(0, 2**32))
def test_parts_of_the_workspace_are_apart_and_within(seed: int) -> None:
    plan, _ = planned(random.Random(seed))
    parts = []
    for layer in plan.layers:
        sums = plan.at_once * layer.blocks * layer.variant.tile**2 * 4
        parts.append((layer.partial_offset, layer.partial_offset + sums))
        if plan.style:
            parts.append((layer.squares_offset, layer.squares_offset + plan.at_once * layer.patches * 4))
    assert all(start % 256 == 0 for start, _ in parts)
    assert all(end <= start for (_, end), (start, _) in pairwise(sorted(parts)))
    assert max(end for _, end in parts) <= plan.workspace_bytes
    assert plan.workspace_bytes <= WORKSPACE_BYTES or plan.at_once == 1


def test_many_pictures_come_in_launches_that_the_workspace_holds() -> None:
    layer = Features.contiguous("float32", 70_000, 130, 10)
    plan = plan_gram([layer], H200)
    bases = launches(plan)[:-1:2]
    assert plan.at_once < 65535
    assert sum(launch.grid[1] for launch in bases) == 70_000
    first, second = (launch.parameters.layers[0] for launch in bases[:2])
    assert second.features - first.features == plan.at_once * layer.strides[0] * 4
    assert second.gram - first.gram == plan.at_once * 130 * 130 * 4
    assert second.partial == first.partial


def occupied(layer: LayerPlan, plan: GramPlan, device: Device) -> float:
    return layer.blocks * plan.at_once / device.multiprocessors


@pytest.mark.parametrize("size", [512, 1024, 2048])
@pytest.mark.parametrize("channels", [64, 128, 256, 512])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_layers_of_vgg_occupy_the_gpu_and_partial_sums_stay_few(dtype: str, channels: int, size: int) -> None:
    places = size * size * 64 * 64 // channels**2
    plan = plan_gram([Features.contiguous(dtype, 1, channels, places)], LARGE, "tf32")
    (layer,) = plan.layers
    assert 0.75 <= occupied(layer, plan, LARGE) <= 4
    assert occupied(layer, plan, LARGE) % 1 == 0 or occupied(layer, plan, LARGE) % 1 > 0.75
    assert plan.workspace_bytes < 20e6
    if size == 2048:
        assert plan.workspace_bytes < 0.27 * channels * places * ELEMENT_BYTES[dtype]


@pytest.mark.parametrize("device", DEVICES)
def test_layers_of_a_style_loss_are_one_launch_of_each_stage(device: Device) -> None:
    sizes = [(64, 2**16), (128, 2**14), (256, 2**12), (512, 2**10)]
    plan = plan_gram([Features.contiguous("float16", 1, *size) for size in sizes], device, style=True)
    kernels = [launch.kernel for launch in launches(plan)]
    assert len(kernels) == 3
    assert kernels[1:] == ["gantk_gram_reduce", "gantk_gram_finish"]


@pytest.mark.parametrize(
    ("features", "device", "precision", "kernel"),
    [
        (Features.contiguous("float16", 1, 64, 256), T4, "exact", "gantk_gram_f16_nchw_64"),
        (Features.contiguous("bfloat16", 1, 64, 256), T4, "exact", "gantk_gram_simt_bf16"),
        (Features.contiguous("float32", 1, 64, 256), T4, "tf32", "gantk_gram_simt_f32"),
        (Features.contiguous("float32", 1, 64, 63), A100, "exact", "gantk_gram_simt_f32"),
        (Features.contiguous("float32", 1, 64, 64), A100, "exact", "gantk_gram_exact_nchw_64"),
        (Features.contiguous("float32", 1, 64, 7), A100, "tf32", "gantk_gram_tf32_nchw_64"),
        (Features.channels_last("bfloat16", 8, 512, 2**14), RTX, "exact", "gantk_gram_bf16_nhwc_128"),
        (Features.channels_last("float16", 1, 1, 1), A100, "exact", "gantk_gram_f16_nchw_64"),
        (Features.contiguous("float16", 1, 64, 256), H200, "exact", "gantk_gram_sm90_f16_nchw"),
        (Features.contiguous("float32", 1, 64, 256), H200, "tf32", "gantk_gram_sm90_tf32_nchw"),
        (Features.contiguous("float32", 1, 64, 256), H200, "exact", "gantk_gram_exact_nchw_64"),
        (Features.contiguous("float16", 1, 64, 257), H200, "exact", "gantk_gram_f16_nchw_64"),
        (Features.channels_last("float16", 1, 64, 256), H200, "exact", "gantk_gram_sm90_f16_nhwc"),
        (Features.channels_last("float32", 1, 64, 256), H200, "tf32", "gantk_gram_tf32_nhwc_64"),
        (Features.channels_last("float16", 1, 65, 256), H200, "exact", "gantk_gram_f16_nhwc_64"),
    ],
)
def test_the_kernel_suits_features_and_device(
    features: Features, device: Device, precision: str, kernel: str
) -> None:
    plan = plan_gram([features], device, precision)
    assert launches(plan)[0].kernel == kernel
    assert plan.layers[0].variant.kernel == kernel


@pytest.mark.parametrize(
    ("features", "vectorised"),
    [
        (Features("float32", (2, 3, 8), (24, 8, 1), 16), 1),
        (Features("float32", (2, 3, 8), (24, 8, 1), 8), 2),
        (Features("float32", (2, 3, 7), (24, 8, 1), 16), 1),  # Rows longer than what is read of them.
        (Features("float32", (2, 3, 7), (21, 7, 1), 16), 2),
        (Features("float32", (1, 1, 7), (7, 7, 1), 16), 1),  # Pitches that nothing is at.
        (Features("float16", (2, 3, 8), (24, 8, 1), 16), 1),
        (Features("float16", (2, 3, 4), (12, 4, 1), 16), 2),
        (Features("float16", (2, 3, 4), (12, 4, 1), 2), 0),
        (Features("float16", (2, 3, 5), (15, 5, 1), 16), 0),
        (Features("float16", (2, 3, 8), (48, 16, 2), 16), 0),
        (Features("bfloat16", (2, 8, 5), (40, 1, 8), 16), 1),
        (Features("bfloat16", (2, 12, 5), (60, 1, 12), 16), 2),
        (Features("bfloat16", (2, 8, 5), (44, 1, 8), 16), 2),
        (Features("bfloat16", (2, 8, 5), (43, 1, 8), 16), 0),
    ],
)
def test_only_dense_aligned_rows_are_read_in_pieces(features: Features, vectorised: int) -> None:
    (first, *_) = launches(plan_gram([features], A100))
    assert first.parameters.layers[0].vectorised == vectorised


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([], "0 layers"),
        ([Features.contiguous("float32", 1, 1, 1)] * 9, "9 layers"),
        ([Features.contiguous("float32", 1, 65_537, 1)], "65537 channels; at most 65536"),
        ([Features.contiguous("float32", n, 2, 2) for n in (1, 2)], "1 and of 2 pictures"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_words(layers: list[Features], words: str) -> None:
    with pytest.raises(GantkError, match=words):
        plan_gram(layers, H200)


def test_features_and_precisions_that_there_are_not_are_refused_in_words() -> None:
    with pytest.raises(UsageError, match="'half'; allowed are exact, tf32"):
        plan_gram([Features.contiguous("float32", 1, 2, 2)], H200, "half")
    with pytest.raises(GantkError, match="float64; the kernels take float32"):
        Features.contiguous("float64", 1, 2, 2)
    with pytest.raises(GantkError, match=r"shape \[0, 2, 2\]"):
        Features.contiguous("float32", 0, 2, 2)
    with pytest.raises(GantkError, match="none may be negative"):
        Features("float32", (1, 2, 2), (4, -2, 1))
    with pytest.raises(GantkError, match="aligned to 2 bytes; at least 4"):
        Features("float32", (1, 2, 2), (4, 2, 1), 2)


def test_the_largest_sizes_overflow_nothing() -> None:
    plan = plan_gram([Features.contiguous("float16", 1, 65_536, 2**40)], H200)
    first = launches(plan)[0]
    assert first.grid[0] < 2**31
    assert first.parameters.layers[0].channel_stride == 2**40
    plan = plan_gram([Features.contiguous("float16", 1, 1, 2**45)], H200)
    assert plan.layers[0].slice <= 2**30


def described(plan: GramPlan) -> list[str]:
    """A plan as gram_twin.cpp prints it."""
    lines = [f"{plan.at_once} {plan.workspace_bytes}"]
    for launch in launches(plan):
        content = ctypes.string_at(
            ctypes.addressof(launch.parameters), ctypes.sizeof(launch.parameters)
        ).hex()
        grid = " ".join(map(str, launch.grid))
        lines.append(
            f"{launch.unit} {launch.kernel} {grid} {launch.block[0]} {launch.shared_bytes} "
            f"{int(launch.dependent)} {content}"
            + "".join(f" {described_map(each)}" for each in launch.tensor_maps)
        )
    return [*lines, "."]


def described_map(tensor_map: TensorMap) -> str:
    single = "float32" in tensor_map.element
    element = list(ELEMENT_BYTES).index("float32" if single else tensor_map.element)
    numbers = [element, int(single), *tensor_map.sizes, *tensor_map.strides_bytes, *tensor_map.box]
    return f"{tensor_map.offset} {tensor_map.address:x} " + " ".join(map(str, [*numbers, tensor_map.swizzle]))


def question(plan: GramPlan, device: Device, precision: str) -> str:
    numbers: list[int] = [*device.compute_capability, device.multiprocessors, device.shared_bytes]
    numbers += [PRECISIONS.index(precision), int(plan.style), len(plan.layers)]
    for layer in plan.layers:
        features = layer.features
        numbers += [list(ELEMENT_BYTES).index(features.dtype), *features.shape, *features.strides]
        numbers.append(features.alignment)
    return " ".join(map(str, numbers))


def test_the_plan_of_cpp_is_the_same() -> None:
    draw, questions, wanted = random.Random(4), [], []
    for _ in range(500):
        device, precision = draw.choice(DEVICES), draw.choice(PRECISIONS)
        plan = plan_gram(random_layers(draw, 2**30), device, precision, style=draw.random() < 0.5)
        questions.append(question(plan, device, precision))
        wanted += described(plan)
    program = twin("gram_twin")
    done = subprocess.run(program, input="\n".join(questions), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == wanted

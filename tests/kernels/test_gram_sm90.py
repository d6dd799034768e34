# SPDX-License-Identifier: Apache-2.0
"""What the plan leaves to Hopper's Gram kernels."""

from __future__ import annotations

import random
import subprocess
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_gram_plan import H200, PRECISIONS, described, launches, question
from twins import twin

from gantk.kernels import gram_sm90
from gantk.kernels.gram_plan import GramPlan, plan_gram
from gantk.kernels.launch import ELEMENT_BYTES, Device, Features


def random_layers(draw: random.Random, most_places: int, mixed: bool = False) -> list[Features]:
    """Layers that the copy engine takes, all in one layout or mixed."""
    dtype, pictures = draw.choice(list(ELEMENT_BYTES)), int(2 ** draw.uniform(0, 6))
    last, layers = draw.random() < 0.5, []
    for _ in range(draw.choice([1, 1, 3, 8])):
        channels, places = draw.randint(1, 1024), 8 * draw.randint(1, most_places // 8)
        if dtype != "float32" and (draw.random() < 0.5 if mixed else last):
            layers.append(Features.channels_last(dtype, pictures, -(-channels // 8) * 8, places - 3))
        else:
            layers.append(Features.contiguous(dtype, pictures, channels, places))
    return layers


def planned(draw: random.Random, most_places: int = 2**20) -> GramPlan:
    device = replace(H200, multiprocessors=draw.choice([1, 7, 78, 114, 132]))
    return plan_gram(random_layers(draw, most_places), device, "tf32", style=draw.random() < 0.5)


def tiles_of_piece(channels: int, piece: int) -> list[tuple[int, int]]:
    """Tiles of 64 x 64 that a block sums, decoded as `sm90_work` of the kernel does."""
    rows = -(-channels // 64)
    bands = -(-channels // 256)
    if piece < bands:
        first = 4 * piece
        return [
            (row, column) for row in range(first, min(rows, first + 4)) for column in range(first, row + 1)
        ]
    piece -= bands
    for band in range(1, bands):
        halves = 1 if band == bands - 1 and channels - 256 * band <= 128 else 2
        if piece < band * halves:
            top, left = 4 * band + piece % halves * 2, piece // halves * 4
            return [
                (row, column) for row in range(top, min(rows, top + 2)) for column in range(left, left + 4)
            ]
        piece -= band * halves
    raise AssertionError("there is no such piece")


@given(channels=st.integers(1, 3000))
def test_pieces_cover_the_triangle_once(channels: int) -> None:
    layer = Features.contiguous("float16", 1, channels, 8)
    (cut,) = gram_sm90.cut([layer], H200, 1)
    found = [tile for piece in range(cut.pieces) for tile in tiles_of_piece(channels, piece)]
    rows = -(-channels // 64)
    assert sorted(found) == [(row, column) for row in range(rows) for column in range(row + 1)]
    with pytest.raises(AssertionError, match="no such piece"):
        tiles_of_piece(channels, cut.pieces)


@given(seed=st.integers(0, 2**32))
def test_slices_cover_the_places_once_and_make_as_many_partial_sums(seed: int) -> None:
    plan = planned(random.Random(seed))
    for layer in plan.layers:
        assert layer.hopper is not None
        _, channels, places = layer.features.shape
        assert layer.slice == layer.hopper.slice
        assert (layer.hopper.blocks - 1) * layer.slice < places <= layer.hopper.blocks * layer.slice
        assert layer.splits == layer.hopper.blocks * (2 if channels <= 64 else 1)
        assert layer.slice % gram_sm90.step_of(layer.features) == 0
        assert layer.slice <= 2**30
    first = launches(plan)[0]
    assert first.grid == (
        sum(one.hopper.pieces * one.hopper.blocks for one in plan.layers if one.hopper),
        plan.at_once,
        1,
    )
    assert first.block == (384, 1, 1)
    firsts = [first.parameters.gram.layers[index].first_block for index in range(len(plan.layers))]
    assert firsts == [
        sum(one.hopper.pieces * one.hopper.blocks for one in plan.layers[:index] if one.hopper)
        for index in range(len(firsts))
    ]


@given(seed=st.integers(0, 2**32))
def test_tensor_maps_are_what_the_copy_engine_takes(seed: int) -> None:
    """The rules of cuTensorMapEncodeTiled, and the layer's own features behind each map."""
    plan = planned(random.Random(seed))
    first = launches(plan)[0]
    for index, (layer, tensor_map) in enumerate(zip(plan.layers, first.tensor_maps, strict=True)):
        assert tensor_map.offset == 128 * index
        assert tensor_map.address == first.parameters.gram.layers[index].features
        assert tensor_map.address % 16 == 0
        count, channels, places = layer.features.shape
        last = layer.features.strides[1] == 1
        sizes = (channels, places) if last else (places, channels)
        assert tensor_map.sizes == (*sizes, min(count, plan.at_once))
        assert all(stride % 16 == 0 and 0 < stride < 2**40 for stride in tensor_map.strides_bytes)
        size = ELEMENT_BYTES[layer.features.dtype]
        assert tensor_map.box == (128 // size, 64 if last or channels <= 64 else 128, 1)
        assert (tensor_map.element == "tfloat32") == (layer.features.dtype == "float32")
        assert tensor_map.swizzle == 128


@pytest.mark.parametrize(
    ("channels", "size", "least"), [(64, 2048, 130), (128, 2048, 130), (256, 2048, 125), (512, 1024, 60)]
)
def test_large_layers_occupy_the_multiprocessors_once(channels: int, size: int, least: int) -> None:
    (cut,) = gram_sm90.cut(
        [Features.contiguous("bfloat16", 1, channels, size**2 * 4096 // channels**2)], H200, 1
    )
    assert least <= cut.pieces * cut.blocks <= 132


def test_blocks_of_all_layers_of_a_style_loss_take_about_as_long() -> None:
    sizes = ((64, 2**20), (128, 2**18), (256, 2**16), (512, 2**14))
    layers = [Features.contiguous("bfloat16", 1, *size) for size in sizes]
    cuts = gram_sm90.cut(layers, H200, 1)
    assert 120 <= sum(cut.pieces * cut.blocks for cut in cuts) <= 132
    assert cuts[0].slice > cuts[1].slice > cuts[2].slice > cuts[3].slice


@pytest.mark.parametrize(
    ("features", "precision", "device", "takes"),
    [
        (Features.contiguous("float16", 2, 3, 8), "exact", H200, True),
        (Features.contiguous("float16", 2, 3, 4), "exact", H200, False),  # Rows of 8 bytes.
        (Features("float16", (1, 1, 3), (9, 9, 1)), "exact", H200, True),  # Pitches that nothing is at.
        (Features("float16", (2, 3, 8), (24, 8, 1), 8), "exact", H200, False),
        (Features.channels_last("float16", 1, 64, 63), "exact", H200, True),
        (Features.channels_last("float16", 2, 60, 64), "exact", H200, False),  # Pitches of 120 bytes.
        (Features.channels_last("float16", 2, 60, 1), "exact", H200, False),
        (Features.channels_last("bfloat16", 1, 60, 1), "exact", H200, True),
        (Features.channels_last("float32", 1, 64, 64), "tf32", H200, False),
        (Features.contiguous("float32", 1, 8, 8), "exact", H200, False),
        (Features.contiguous("float32", 1, 8, 8), "tf32", H200, True),
        (Features("float16", (2, 8, 8), (0, 8, 1)), "exact", H200, False),  # One picture twice.
        (Features.contiguous("float16", 1, 1, 2**31), "exact", H200, False),
        (Features.contiguous("float16", 1, 8, 8), "exact", Device((10, 0), 148, 232_448), False),
        (Features.contiguous("float16", 1, 8, 8), "exact", Device((8, 0), 108, 166_912), False),
    ],
)
def test_it_takes_what_the_copy_engine_can(
    features: Features, precision: str, device: Device, takes: bool
) -> None:
    assert gram_sm90.takes(features, device, precision) == takes
    unit = plan_gram([features], device, precision).layers[0].variant.unit
    assert (unit == "gram_sm90") == takes


def test_the_plan_of_cpp_is_the_same() -> None:
    draw, questions, wanted = random.Random(6), [], []
    for _ in range(250):
        device = replace(H200, multiprocessors=draw.choice([1, 7, 78, 114, 132]))
        precision = draw.choice(PRECISIONS)
        plan = plan_gram(random_layers(draw, 2**24, mixed=True), device, precision, style=draw.random() < 0.5)
        questions.append(question(plan, device, precision))
        wanted += described(plan)
    program = twin("gram_twin")
    done = subprocess.run(program, input="\n".join(questions), capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == wanted

# SPDX-License-Identifier: Apache-2.0
"""Every epoch has every picture once, in an order that the seed and the epoch decide."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gantk.data import Batches
from gantk.data.batches import normalise


def numbered(count: int) -> np.ndarray:
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, 1, 2, 2)).copy()


def ids(batches: Batches, step: int) -> list[int]:
    return batches.get(step).pictures[:, 0, 0, 0].tolist()


@settings(max_examples=30, deadline=None, derandomize=True)
@given(st.integers(2, 60), st.integers(1, 20), st.integers(0, 5), st.integers(0, 3))
def test_an_epoch_has_no_picture_twice(count: int, batch: int, seed: int, epoch: int) -> None:
    batch = min(batch, count)
    with Batches(numbered(count), batch, seed=seed) as batches:
        steps = range(epoch * batches.per_epoch, (epoch + 1) * batches.per_epoch)
        seen = [index for step in steps for index in ids(batches, step)]
    assert len(seen) == len(set(seen)) == count // batch * batch


def test_any_step_can_be_asked_for_in_any_order() -> None:
    with Batches(numbered(20), 4, seed=3) as forward, Batches(numbered(20), 4, seed=3) as resumed:
        sequence = [ids(forward, step) for step in range(15)]
        assert ids(resumed, 11) == sequence[11]
        assert ids(resumed, 12) == sequence[12]
        assert ids(resumed, 2) == sequence[2]
    assert sequence[0] != sequence[5]  # Another epoch, another order.
    with Batches(numbered(20), 4, seed=4) as other:
        assert ids(other, 0) != sequence[0]


def test_flips_mirror_about_half() -> None:
    array = np.zeros((400, 1, 1, 2), np.uint8)
    array[..., 0] = 255
    with Batches(array, 400, seed=0, flip=True) as batches:
        mirrored = (batches.get(0).pictures[:, 0, 0, 1] == 255).float().mean()
    assert 0.4 < mirrored < 0.6
    assert (array[..., 0] == 255).all()  # The pictures themselves are left alone.


def test_normalised_range_and_layout() -> None:
    pictures = torch.tensor([0, 255, 51, 204], dtype=torch.uint8).reshape(1, 1, 2, 2).repeat(2, 3, 1, 1)
    normal = normalise(pictures, torch.device("cpu"))
    torch.testing.assert_close(normal[0, 0].flatten(), torch.tensor([-1.0, 1.0, -0.6, 0.6]))
    assert normal.is_contiguous(memory_format=torch.channels_last)


def test_crops_are_parts_of_their_pictures_and_move_from_epoch_to_epoch() -> None:
    row, column = np.mgrid[:12, :12]
    array = (row * 12 + column).astype(np.uint8)[None, None].repeat(50, 0)
    with Batches(array, 50, seed=0, crop=9) as batches:
        first, second = batches.get(0).pictures, batches.get(1).pictures
    for batch in (first, second):
        assert batch.shape == (50, 1, 9, 9)
        corners = batch[:, 0, 0, 0]
        assert ((batch[:, 0] - corners[:, None, None]) == torch.from_numpy(row * 12 + column)[:9, :9]).all()
        tops, lefts = corners // 12, corners % 12
        assert {*tops.tolist()} == {*lefts.tolist()} == {0, 1, 2, 3}  # Every place that a crop has room for.
    assert not torch.equal(first, second)

# SPDX-License-Identifier: Apache-2.0
"""Runs on GPU memory and on a stream of the caller's."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from engine_lab import Lab, check, picture
from fake_cuda import FakeCuda
from gantk.errors import GantkError


class Elsewhere:
    """An array of somebody's in (fake) GPU memory."""

    def __init__(self, cuda: FakeCuda, array: np.ndarray, **told: Any) -> None:
        _, self.address = cuda.cudaMalloc(array.nbytes)
        self.array = np.frombuffer(cuda.device[self.address], array.dtype).reshape(array.shape)
        self.array[...] = array
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (self.address, False), "version": 3, **told,
        }  # fmt: skip


def test_arrays_on_the_gpu_are_taken_and_given_without_a_copy(lab: Lab) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        x = Elsewhere(lab.cuda, picture(1, 2, 8, 8))
        mine = Elsewhere(lab.cuda, np.zeros((1, 2, 8, 8), np.float32))
        lab.forget()
        outputs = runner.launch({"x": x}, stream, {"y": mine})
        runner.synchronize()
        assert "cudaMemcpyAsync" not in lab.cuda.calls
        assert outputs["y"] is mine
        np.testing.assert_allclose(mine.array, 2 * x.array + 1, rtol=1e-6)
        told = outputs["z"].__cuda_array_interface__
        assert (told["shape"], told["typestr"]) == ((1, 2, 8, 8), "|u1")
        held = np.frombuffer(lab.cuda.device[told["data"][0]], np.uint8)
        np.testing.assert_array_equal(held, (2 * x.array.astype(np.float64) + 1).astype(np.uint8).ravel())
        check(runner, picture(1, 2, 4, 4))  # The other way still works, beside it.
        before = len(lab.cuda.device)
        del outputs
        gc.collect()
        assert len(lab.cuda.device) == before - 1


def test_two_streams_follow_each_other(lab: Lab) -> None:
    with lab.open() as runner:
        streams = [lab.cuda.cudaStreamCreateWithFlags(1)[1] for _ in range(2)]
        x = Elsewhere(lab.cuda, picture(1, 2, 8, 8))
        runner.launch({"x": x}, streams[0])
        lab.forget()
        runner.launch({"x": x}, streams[0])
        assert "cudaStreamSynchronize" not in lab.cuda.calls
        runner.launch({"x": x}, streams[1])
        assert lab.cuda.calls.count("cudaStreamSynchronize") == 1


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda cuda: picture(1, 2, 8, 8), "'x' is a ndarray, which is not in GPU memory"),
        (lambda cuda: Elsewhere(cuda, picture(1, 2, 8, 8).astype(np.float64)), "has dtype float64; the network"),
        (lambda cuda: Elsewhere(cuda, picture(1, 3, 8, 8)), r"has shape \[1, 3, 8, 8\]; the network wants \[N, 2"),
        (lambda cuda: Elsewhere(cuda, picture(1, 2, 8, 8), strides=(4, 4, 4, 4)), "'x' is not contiguous"),
        (lambda cuda: Elsewhere(cuda, picture(2, 2, 20, 20)), "asked for is x 2x2x20x20"),
    ],
)  # fmt: skip
def test_arrays_on_the_gpu_that_do_not_do(lab: Lab, make: Callable[[FakeCuda], Any], text: str) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        with pytest.raises(GantkError, match=text):
            runner.launch({"x": make(lab.cuda)}, stream)

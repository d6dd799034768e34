# SPDX-License-Identifier: Apache-2.0
"""Outputs whose size depends on the data: the engine asks for their memory while it runs."""

from __future__ import annotations

import gc
import re
from typing import Any

import numpy as np
import pytest

import networks
from engine_lab import Elsewhere, Lab, engine_of, picture, write_bundle
from fake_tensorrt import LEVEL
from gantk.errors import GantkError
from gantk.runtime.backends.tensorrt import EngineRunner


@pytest.fixture
def open_lab(lab: Lab) -> Lab:
    """A lab whose engine yields in `y` only those samples whose first value is large; `z` is as ever."""
    lab.trt.open = ("y",)
    return lab


def samples(*large: bool, side: int = 8, seed: int = 0) -> np.ndarray:
    x = picture(len(large), 2, side, side, seed=seed)
    x[:, 0, 0, 0] = [LEVEL + 1 if one else LEVEL - 1 for one in large]
    return x


def opened(lab: Lab) -> EngineRunner:
    """The runner; the probe, whose outputs are of the whole batch, is passed over."""
    write_bundle(lab.root, engine_of(parity=(networks.parity("tensorrt-rtx"),)))
    return lab.open()


def check(outputs: dict[str, Any], x: np.ndarray, kept: list[int]) -> None:
    assert outputs["y"].shape == (len(kept), *x.shape[1:])
    np.testing.assert_allclose(outputs["y"], 2 * x[kept] + 1, rtol=1e-6)
    np.testing.assert_array_equal(outputs["z"], (2 * x.astype(np.float64) + 1).astype(np.uint8))


def test_each_run_has_the_size_of_its_data(open_lab: Lab) -> None:
    with opened(open_lab) as runner:
        for seed, large in enumerate(
            [(True, False, True), (True,) * 3, (False,) * 3, (False, True, False), (True,), (False,)]
        ):
            x = samples(*large, seed=seed)
            check(runner.run({"x": x}), x, [index for index, one in enumerate(large) if one])
        assert runner.memory_bytes["buffers"] >= 3 * 2 * 64 * 4
    runner.close()  # Again, which is harmless.
    gc.collect()
    assert (open_lab.cuda.leaks, open_lab.trt.alive) == ({}, 0)


def test_no_run_of_such_an_engine_is_bound(open_lab: Lab) -> None:
    with opened(open_lab) as runner, pytest.raises(GantkError, match="'y' depends on the data"):
        runner.bind({"x": samples(True)})


def test_no_run_of_such_an_engine_is_captured(open_lab: Lab) -> None:
    with opened(open_lab) as runner:
        for seed in range(4):
            x = samples(True, False, seed=seed)
            check(runner.run({"x": x}), x, [0])
        assert "cudaStreamBeginCapture" not in open_lab.cuda.calls


def test_memory_is_taken_again_only_where_it_is_too_small(open_lab: Lab) -> None:
    with opened(open_lab) as runner:
        runner.run({"x": samples(True, True)})
        before = len(open_lab.cuda.device)
        open_lab.forget()
        for large in ((True, False), (False, False), (True, True)):
            runner.run({"x": samples(*large)})
        assert {"cudaMalloc", "cudaMallocHost", "cudaFree"}.isdisjoint(open_lab.cuda.calls)
        runner.run({"x": samples(True, True, True)})
        assert len(open_lab.cuda.device) == before


def test_outputs_are_fresh_or_where_they_are_wanted(open_lab: Lab) -> None:
    with opened(open_lab) as runner:
        first = runner.run({"x": samples(True, False)})["y"]
        kept, mine = first.copy(), np.empty((1, 2, 8, 8), np.float32)
        assert runner.run({"x": samples(False, True, seed=1)}, {"y": mine})["y"] is mine
        np.testing.assert_array_equal(first, kept)
        assert not np.array_equal(mine, kept)
        with pytest.raises(
            GantkError, match=r"`out` for 'y' has shape \[1, 2, 8, 8\]; the output has \[2, 2, 8, 8\]"
        ):
            runner.run({"x": samples(True, True)}, {"y": mine})


def test_launches_give_arrays_of_their_own(open_lab: Lab) -> None:
    with opened(open_lab) as runner:
        cuda = open_lab.cuda
        _, stream = cuda.cudaStreamCreateWithFlags(1)
        both, one = (Elsewhere(cuda, samples(True, second, seed=7)) for second in (True, False))
        first, second = runner.launch({"x": both}, stream), runner.launch({"x": one}, stream)
        runner.synchronize()
        assert list(first) == ["y", "z"]
        for outputs, array, count in ((first, both.array, 2), (second, one.array, 1)):
            told = outputs["y"].__cuda_array_interface__
            assert told["shape"] == (count, 2, 8, 8)
            held = np.frombuffer(cuda.device[told["data"][0]], np.float32, count * 128)
            np.testing.assert_allclose(held, (2 * array[:count] + 1).ravel(), rtol=1e-6)
        with pytest.raises(GantkError, match="`out` names 'y', whose size depends on the data"):
            runner.launch({"x": one}, stream, {"y": both})
        held_before = len(cuda.device)
        del first, second, outputs
        gc.collect()
        assert len(cuda.device) == held_before - 4


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("trt", "set_output_allocator"),
        ("trt", "execute_async_v3"),
        ("cuda", "cudaMalloc"),
        ("cuda", "cudaMallocHost"),
    ],
)
def test_a_failure_is_said_and_leaks_nothing(open_lab: Lab, where: str, name: str) -> None:
    failing = open_lab.cuda if where == "cuda" else open_lab.trt
    # The context's, inputs and `z` are there first; the last is the open output's.
    failing.fail[name] = {"cudaMalloc": 4, "cudaMallocHost": 3}.get(name, 1)
    with opened(open_lab) as runner:
        with pytest.raises(GantkError) as caught:
            runner.run({"x": samples(True, False)})
        wanted = {
            "cudaMalloc": "'y' of .* wants 0.0 MiB of GPU memory",
            "cudaMallocHost": "'y' of .* pinned host",
        }
        assert re.search(wanted.get(name, "as told"), str(caught.value))
        x = samples(False, True)
        check(runner.run({"x": x}), x, [1])  # It goes on.
        caught.value.__traceback__ = None
        del caught
    gc.collect()
    assert (open_lab.cuda.leaks, open_lab.trt.alive) == ({}, 0)

# SPDX-License-Identifier: Apache-2.0
"""Runs on GPU memory and on a stream of the caller's."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine_lab import Elsewhere, Lab, check, picture
from fake_cuda import FakeCuda
from fake_tensorrt import Context
from gantk.errors import GantkError
from gantk.runtime import dlpack


def held(cuda: FakeCuda, array: Any) -> np.ndarray:
    """What is in the memory of an output."""
    return np.frombuffer(cuda.device[array.address], array.dtype).reshape(array.shape)


class Lender:
    """An array of somebody's in (fake) GPU memory that has DLPack alone."""

    def __init__(self, cuda: FakeCuda, array: np.ndarray, ordinal: int = 0) -> None:
        self.held, self.ordinal, self.streams = Elsewhere(cuda, array), ordinal, []
        self.array = self.held.array

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.ordinal

    def __dlpack__(self, *, stream: int | None, max_version: tuple[int, int]) -> object:
        self.streams.append(stream)
        strides = tuple(stride // self.array.itemsize for stride in self.array.strides)
        lent = dlpack.Lent(self.held.address, self.ordinal, self.array.dtype.name, self.array.shape, strides)
        return dlpack.make(self, lent, versioned=max_version >= (1, 0))


def test_arrays_on_the_gpu_are_taken_and_given_without_a_copy(lab: Lab) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        x = Elsewhere(lab.cuda, picture(1, 2, 8, 8))
        mine = Elsewhere(lab.cuda, np.zeros((1, 2, 8, 8), np.float32))
        lab.forget()
        outputs = runner.launch({"x": x}, stream, {"y": mine})
        runner.synchronize()
        assert "cudaMemcpyAsync" not in lab.cuda.calls
        assert lab.trt.calls.count("set_input_shape") == 1
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


def test_arrays_come_and_go_by_dlpack(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy takes ours: what the fake GPU's memory is, once it is called so."""
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        x = Lender(lab.cuda, picture(1, 2, 8, 8))
        mine = Lender(lab.cuda, np.zeros((1, 2, 8, 8), np.float32))
        lab.forget()
        outputs = runner.launch({"x": x}, stream, {"y": mine})
        assert "cudaMemcpyAsync" not in lab.cuda.calls
        assert outputs["y"] is mine
        runner.synchronize()
        np.testing.assert_allclose(mine.array, 2 * x.array + 1, rtol=1e-6)
        assert (x.streams, mine.streams) == ([stream], [stream])
        assert dlpack._held == {}
        monkeypatch.setattr(dlpack, "CUDA", 1)
        taken = np.from_dlpack(outputs["z"])
        np.testing.assert_array_equal(taken, (2 * x.array.astype(np.float64) + 1).astype(np.uint8))
        assert lab.cuda.waits == [(1, stream)]
        del outputs
        gc.collect()
        held = len(lab.cuda.device)
        del taken
        gc.collect()
        assert len(lab.cuda.device) == held - 1
        assert len(lab.cuda.events) == 1  # Of the last launch.


def test_streams_wait_for_each_other_where_they_are_told_of(lab: Lab) -> None:
    with lab.open() as runner:
        ours, theirs = (lab.cuda.cudaStreamCreateWithFlags(1)[1] for _ in range(2))
        z = runner.launch({"x": Elsewhere(lab.cuda, picture(1, 2, 8, 8), stream=theirs)}, ours)["z"]
        assert lab.cuda.waits == [(ours, theirs)]
        z.__dlpack__(stream=theirs)
        assert lab.cuda.waits == [(ours, theirs), (theirs, ours)]
        z.__dlpack__(stream=ours)
        z.__dlpack__(stream=-1)
        assert len(lab.cuda.waits) == 2
        z.__dlpack__(dl_device=(2, 0), copy=False)
        for asked in ({"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (2, 1)}):
            with pytest.raises(
                BufferError, match=r"DeviceArray uint8\[1, 2, 8, 8\] on GPU 0> is given as it is"
            ):
                z.__dlpack__(**asked)


def test_two_streams_follow_each_other(lab: Lab) -> None:
    """On the GPU: nothing waits here."""
    with lab.open() as runner:
        streams = [lab.cuda.cudaStreamCreateWithFlags(1)[1] for _ in range(2)]
        x, small = Elsewhere(lab.cuda, picture(1, 2, 32, 32)), Elsewhere(lab.cuda, picture(1, 2, 8, 8))
        found = runner.launch({"x": x}, streams[0])["y"]
        lab.forget()
        runner.launch({"x": x}, streams[1])
        assert lab.cuda.waits[-1] == (streams[1], streams[0])
        assert not {"cudaStreamSynchronize", "cudaEventSynchronize"} & set(lab.cuda.calls)
        runner.launch({"x": small}, streams[0])  # Of the other profile.
        runner.synchronize()
        np.testing.assert_allclose(held(lab.cuda, found), 2 * x.array + 1, rtol=1e-6)


def test_a_context_is_told_other_shapes_when_its_run_is_done(lab: Lab) -> None:
    """Also on the same stream: the product would change it under the run."""
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        pictures = [Elsewhere(lab.cuda, picture(1, 2, side, side)) for side in (8, 9, 8, 32)]
        found = [runner.launch({"x": x}, stream) for x in pictures]
        runner.synchronize()
        for x, outputs in zip(pictures, found, strict=True):
            np.testing.assert_allclose(held(lab.cuda, outputs["y"]), 2 * x.array + 1, rtol=1e-6)
    assert lab.cuda.faults == []


@pytest.mark.parametrize("stream", [None, 0, 1])
def test_on_a_default_stream_runs_are_on_one_of_ours(lab: Lab, stream: int | None) -> None:
    """There the product would wait for the whole GPU at each."""
    with lab.open() as runner:
        x = Elsewhere(lab.cuda, picture(1, 2, 8, 8))
        runner.launch({"x": x}, stream)
        lab.forget()
        found = runner.launch({"x": x}, stream)
        (ours, before), (after, done) = lab.cuda.waits[-2:]
        assert (before, after, done) == (1, 1, ours)
        assert not {"cudaStreamSynchronize", "cudaEventSynchronize"} & set(lab.cuda.calls)
        lab.cuda.cudaStreamSynchronize(1)
        np.testing.assert_allclose(held(lab.cuda, found["y"]), 2 * x.array + 1, rtol=1e-6)
        del found
        gc.collect()
    assert lab.cuda.faults == []


def test_a_run_that_fails_on_ours_is_waited_for_on_the_default_stream(lab: Lab) -> None:
    with lab.open() as runner:
        x = Elsewhere(lab.cuda, picture(1, 2, 8, 8))
        runner.launch({"x": x}, None)
        lab.forget()
        lab.trt.fail["execute_async_v3"] = lab.trt.calls.count("execute_async_v3") + 1
        with pytest.raises(GantkError, match="cannot run"):
            runner.launch({"x": x}, None)
        (ours, _), (after, done) = lab.cuda.waits[-2:]
        assert (after, done) == (1, ours)


def test_a_launch_may_be_a_part_of_a_graph_of_the_callers(lab: Lab) -> None:
    with lab.open() as runner:
        cuda, (theirs, other) = lab.cuda, [lab.cuda.cudaStreamCreateWithFlags(1)[1] for _ in range(2)]
        x, y, fresh = (Elsewhere(cuda, picture(1, 2, 8, 8, seed=seed)) for seed in range(3))
        outputs = {"y": y, "z": Elsewhere(cuda, np.zeros((1, 2, 8, 8), np.uint8))}
        runner.launch({"x": x}, other)
        cuda.cudaStreamBeginCapture(theirs, 1)
        with pytest.raises(GantkError, match="is being captured into a graph") as caught:
            runner.launch({"x": x}, theirs)
        assert caught.value.hint == "give `out`, made before"
        runner.launch({"x": x}, theirs, outputs)
        _, graph = cuda.cudaStreamEndCapture(theirs)
        runner.launch({"x": x}, other)
        # It wants more memory for itself; the graph knows the place of what it had.
        runner.launch({"x": Elsewhere(cuda, picture(1, 2, 32, 32))}, other)
        runner.synchronize()
        assert runner.memory_bytes["activations"] >= (64 + 1024) * 2
        x.array[...] = fresh.array
        cuda.cudaGraphLaunch(graph, theirs)
        cuda.cudaStreamSynchronize(theirs)
        np.testing.assert_allclose(y.array, 2 * fresh.array + 1, rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda cuda: picture(1, 2, 8, 8), "'x' is a ndarray outside of GPU memory"),
        (lambda cuda: Elsewhere(cuda, picture(1, 2, 8, 8).astype(np.float64)), "has dtype float64; the network"),
        (lambda cuda: Elsewhere(cuda, picture(1, 3, 8, 8)), r"has shape \[1, 3, 8, 8\]; the network wants \[N, 2"),
        (lambda cuda: Elsewhere(cuda, picture(1, 2, 8, 8), strides=(4, 4, 4, 4)), "'x' is not contiguous"),
        (lambda cuda: Elsewhere(cuda, picture(1, 2, 8, 8), offset=128), "'x' does not begin at a multiple of 256"),
        (lambda cuda: Elsewhere(cuda, picture(2, 2, 20, 20)), "asked for is x 2x2x20x20"),
        (lambda cuda: Lender(cuda, picture(1, 2, 8, 8), ordinal=1), "'x' is on GPU 1; the network is on GPU 0"),
        (lambda cuda: Lender(cuda, np.ones((1, 2, 8, 8), bool)), "'x' has dtype bool; the network wants float32"),
        (lambda cuda: [1.0], "'x' is a builtins.list; an array in GPU memory is wanted"),
    ],
)  # fmt: skip
def test_arrays_on_the_gpu_that_do_not_do(lab: Lab, make: Callable[[FakeCuda], Any], text: str) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        with pytest.raises(GantkError, match=text):
            runner.launch({"x": make(lab.cuda)}, stream)


def test_an_output_that_may_not_be_written_is_refused(lab: Lab) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        x, y = (Elsewhere(lab.cuda, picture(1, 2, 8, 8)) for _ in range(2))
        y.__cuda_array_interface__["data"] = (y.address, True)
        with pytest.raises(GantkError, match="`out` for 'y' is read-only"):
            runner.launch({"x": x}, stream, {"y": y})


def test_an_output_that_begins_anywhere_is_refused(lab: Lab) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        x, y = (Elsewhere(lab.cuda, picture(1, 2, 8, 8), offset=offset) for offset in (256, 320))
        with pytest.raises(GantkError, match="'y' does not begin at a multiple of 256 bytes") as caught:
            runner.launch({"x": x}, stream, {"y": y})
        assert caught.value.hint == "copy it first: part of a larger array may begin anywhere"


def test_two_outputs_do_not_lie_on_each_other(lab: Lab) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        y = Elsewhere(lab.cuda, picture(1, 2, 8, 8))
        told = {**y.__cuda_array_interface__, "typestr": "|u1"}
        with pytest.raises(GantkError, match="`out` for 'z' and 'y' share memory"):
            x = Elsewhere(lab.cuda, picture(1, 2, 8, 8))
            runner.launch({"x": x}, stream, {"y": y, "z": SimpleNamespace(__cuda_array_interface__=told)})


def test_an_output_of_another_size_is_not_written_to(lab: Lab) -> None:
    with lab.open() as runner:
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        x, y = (Elsewhere(lab.cuda, picture(count, 2, 8, 8)) for count in (1, 2))
        with pytest.raises(
            GantkError, match=r"`out` for 'y' has shape \[2, 2, 8, 8\]; the output has \[1, 2, 8, 8\]"
        ):
            runner.launch({"x": x}, stream, {"y": y})


def test_launches_of_threads_take_turns(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """They share a context, and shapes and addresses are told it before it runs."""
    inside, runs = Context.execute_async_v3, []

    def execute(self: Context, stream: int) -> bool:
        runs.append("begins")
        time.sleep(0.05)
        runs.append("ends")
        return inside(self, stream)

    with lab.open() as runner:
        monkeypatch.setattr(Context, "execute_async_v3", execute)
        _, stream = lab.cuda.cudaStreamCreateWithFlags(1)
        xs = [Elsewhere(lab.cuda, picture(1, 2, side, side)) for side in (4, 8)]
        made: dict[int, Any] = {}
        threads = [
            threading.Thread(target=lambda i=i: made.update({i: runner.launch({"x": xs[i]}, stream)["y"]}))
            for i in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        runner.synchronize()
        assert runs == ["begins", "ends"] * 2
        for i, x in enumerate(xs):
            np.testing.assert_allclose(held(lab.cuda, made[i]), 2 * x.array + 1, rtol=1e-6)


def test_a_bound_run_is_one_graph(lab: Lab) -> None:
    x = picture(1, 2, 8, 8)
    with lab.open() as runner:
        bound = runner.bind({"x": x})
        twin = np.frombuffer(lab.cuda.device[bound.inputs["x"].address], np.float32).reshape(x.shape)
        lab.forget()
        for seed in range(3):
            twin[...] = picture(1, 2, 8, 8, seed=seed)
            y = held(lab.cuda, bound(stream=-1)["y"])
            np.testing.assert_allclose(y, 2 * twin + 1, rtol=1e-6)
        assert lab.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 3
        check(runner, picture(1, 2, 4, 4))  # It has a context of its own.
        y[...] = 0
        bound()
        np.testing.assert_allclose(y, 2 * twin + 1, rtol=1e-6)
        contexts = lab.trt.alive
        # A context is given back by what was not bound, and by what nobody holds any more.
        for _ in range(3):
            with pytest.raises(GantkError, match="4..16"):
                runner.bind({"x": picture(1, 2, 3, 3)})
            runner.bind({"x": picture(1, 2, 8, 8)})()
        gc.collect()
        assert lab.trt.alive == contexts
    with pytest.raises(GantkError, match="closed"):
        bound()
    del bound, y, twin
    gc.collect()
    assert lab.cuda.leaks == {}

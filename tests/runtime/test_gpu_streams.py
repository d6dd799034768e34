# SPDX-License-Identifier: Apache-2.0
"""Runners on a (fake) GPU and the caller's streams: who waits for whom, and what becomes of memory."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from engine_lab import Elsewhere
from fake_streams import LEGACY
from gantk.errors import GantkError
from gantk.runtime.cuda import POOLED_BYTES
from gpu_backends import Here

# Bound runs.


@pytest.mark.parametrize("flags", [None, 0, 1])
def test_a_bound_run_waits_for_what_the_caller_has_enqueued(here: Here, flags: int | None) -> None:
    """On the default stream, which others that block stand for too, and on one that the caller names."""
    with here.open() as runner:
        x = Elsewhere(here.cuda, here.x(0))
        bound = runner.bind({here.names[0]: x})
        theirs = LEGACY if flags is None else here.stream(flags)
        for seed in range(1, 4):
            fresh = here.x(seed)
            here.cuda.work(theirs, lambda fresh=fresh: np.copyto(x.array, fresh))
            found = bound(theirs) if flags == 1 else bound()
            here.check(here.values(found[here.names[1]]), fresh)


def test_a_bound_run_leaves_alone_what_the_caller_still_reads(here: Here) -> None:
    with here.open() as runner:
        x = Elsewhere(here.cuda, here.x(0))
        bound = runner.bind({here.names[0]: x})
        y, read = bound()[here.names[1]], []
        here.cuda.work(LEGACY, lambda: read.append(here.values(y).copy()))
        first = x.array.copy()
        here.cuda.work(LEGACY, lambda: np.copyto(x.array, here.x(1)))
        bound()
        here.check(read[0], first)
        here.check(here.values(y), here.x(1))


def test_a_caller_without_pending_work_pays_for_no_event(here: Here) -> None:
    with here.open() as runner:
        bound = runner.bind({here.names[0]: here.x(0)})
        here.cuda.calls.clear()
        bound(stream=-1)
        assert here.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]
        bound()
        here.cuda.calls.clear()
        bound()
        assert here.cuda.calls[:2] == ["cudaEventRecord", "cudaStreamWaitEvent"]
        assert here.cuda.calls[2:] == ["cudaGraphLaunch", "cudaStreamSynchronize"]
        with pytest.raises(GantkError, match="the stream is 'default', a str; a CUDA stream or its handle"):
            bound("default")


# Launches, and streams that go.


def test_what_was_launched_outlives_its_stream(here: Here) -> None:
    """Whoever reads it waits for the run, not for the stream, and the runner does likewise."""
    with here.open() as runner:
        x, other = Elsewhere(here.cuda, here.x(0)), here.stream()
        for take in (lambda y: y.__dlpack__(stream=other), lambda y: y.__cuda_array_interface__):
            theirs, read = here.stream(), []
            y = here.launch(runner, x, theirs)
            here.cuda.cudaStreamDestroy(theirs)
            told = take(y)
            reader = told["stream"] if isinstance(told, dict) else other
            here.cuda.work(reader, lambda y=y, read=read: read.append(here.values(y).copy()))
            here.cuda.cudaStreamSynchronize(reader)
            here.check(read[0], x.array)
            del told, y
        gone = here.stream()
        y = here.launch(runner, x, gone)
        here.cuda.cudaStreamDestroy(gone)
        runner.synchronize()
        here.check(here.values(y), x.array)
        here.launch(runner, x, here.stream())


def test_launches_that_are_told_where_to_write_share_an_event(here: Here) -> None:
    with here.open() as runner:
        x, theirs = Elsewhere(here.cuda, here.x(0)), here.stream()
        names = [spec.name for spec in runner.outputs]
        out = runner.launch({here.names[0]: x}, theirs)
        assert [*out] == names
        events = set()
        for _ in range(3):
            runner.launch({here.names[0]: x}, theirs, out)
            events.add(frozenset(here.cuda.events))
        assert len(events) == 1
        runner.synchronize()
        here.check(here.values(out[here.names[1]]), x.array)


def test_bound_arrays_outlive_their_runner(here: Here) -> None:
    with here.open() as runner:
        bound = runner.bind({here.names[0]: here.x(0)})
        y = bound()[here.names[1]]
    assert here.cuda.graphs == {}
    y.__dlpack__(stream=here.stream())
    assert y.__cuda_array_interface__["stream"] is None
    here.check(here.values(y), here.x(0))


def test_closing_waits_for_what_was_launched(here: Here) -> None:
    runner = here.open()
    x = Elsewhere(here.cuda, here.x(0))
    outputs = runner.launch({here.names[0]: x}, here.stream())
    runner.close()
    here.check(here.values(outputs[here.names[1]]), x.array)


def test_outputs_come_and_go_in_the_order_of_the_callers_stream(here: Here) -> None:
    """Nothing waits: not for their memory, and not where they are dropped before the run is done."""
    with here.open() as runner:
        x, theirs = Elsewhere(here.cuda, here.x(0)), SimpleNamespace(cuda_stream=here.stream())
        here.launch(runner, x, theirs)
        here.cuda.settle()
        here.cuda.calls.clear()
        reads: list[np.ndarray] = []
        for _ in range(3):
            y = here.launch(runner, x, theirs)
            y.__dlpack__(stream=theirs.cuda_stream)
            here.cuda.work(theirs.cuda_stream, lambda y=y.address: reads.append(bytes(here.cuda.at(y))))
            del y
        waiting = {"cudaMalloc", "cudaFree", "cudaDeviceSynchronize", "cudaStreamSynchronize"}
        assert not waiting & set(here.cuda.calls)
        before = len(here.cuda.device)
        here.cuda.settle()
        assert reads == [here.right(x.array).astype(np.float32).tobytes()] * 3
        assert len(here.cuda.device) < before


def test_memory_waits_for_all_who_have_seen_it(here: Here) -> None:
    with here.open() as runner:
        x, theirs = Elsewhere(here.cuda, here.x(0)), SimpleNamespace(cuda_stream=here.stream())
        for ask in ({"stream": here.stream()}, {"stream": -1}):
            y, read = here.launch(runner, x, theirs), []
            y.__dlpack__(**ask)
            here.cuda.cudaStreamSynchronize(theirs.cuda_stream)
            here.cuda.work(here.stream(), lambda y=y.address, read=read: read.append(here.cuda.at(y)))
            del y
            here.cuda.cudaStreamSynchronize(theirs.cuda_stream)  # Which may be done long before the others.
            here.cuda.settle()
            assert read


@pytest.mark.parametrize("said", [0, 2**20])
def test_a_pool_keeps_some_memory_unless_somebody_has_said_how_much(here: Here, said: int) -> None:
    here.cuda.pool_keeps = said
    with here.open() as runner:
        for _ in range(3):
            here.launch(runner, Elsewhere(here.cuda, here.x(0)), SimpleNamespace(cuda_stream=here.stream()))
        assert "cudaMallocAsync" in here.cuda.calls
        assert here.cuda.pool_keeps == (said or POOLED_BYTES)


def test_without_pools_memory_waits_as_it_does_everywhere(here: Here) -> None:
    here.cuda.pools = False
    with here.open() as runner:
        y = here.launch(runner, Elsewhere(here.cuda, here.x(0)), SimpleNamespace(cuda_stream=here.stream()))
        runner.synchronize()
        here.check(here.values(y), here.x(0))
    del y
    gc.collect()
    assert here.cuda.calls.count("cudaMalloc") and not here.cuda.calls.count("cudaMallocAsync")


def test_garbage_in_a_capture_is_given_back_after_it(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    with here.open() as runner:
        garbage = [here.launch(runner, Elsewhere(here.cuda, here.x(0)), here.stream())]
        runner.synchronize()
        address, begin = garbage[0].address, here.cuda.cudaStreamBeginCapture

        def capture(*arguments: Any) -> Any:
            found = begin(*arguments)
            garbage.clear()  # As the collector may, anywhere.
            assert address in here.cuda.device
            return found

        monkeypatch.setattr(here.cuda, "cudaStreamBeginCapture", capture)
        runner.bind({here.names[0]: here.x(1)})
        assert address not in here.cuda.device
        assert here.cuda.calls.count("cudaGraphInstantiate") == 1


@pytest.mark.parametrize("is_lent", [False, True])
@pytest.mark.parametrize("on_default", [False, True])
def test_garbage_in_a_capture_of_the_callers_is_given_back_after_it(
    here: Here, on_default: bool, is_lent: bool
) -> None:
    """In a graph only its own memory can be given back, and nothing be waited for.

    CUDA's default stream would wait for one that blocks, and so is captured with it.
    """
    with here.open() as runner:
        theirs = SimpleNamespace(cuda_stream=here.stream(flags=0))
        made_on = SimpleNamespace(cuda_stream=0) if on_default else theirs
        y = here.launch(runner, Elsewhere(here.cuda, here.x(0)), made_on)
        address = y.address
        if is_lent:
            y.__dlpack__(stream=here.stream())
        here.cuda.cudaStreamBeginCapture(theirs.cuda_stream, 1)
        del y
        gc.collect()
        assert address in here.cuda.device
        here.cuda.cudaGraphDestroy(here.cuda.cudaStreamEndCapture(theirs.cuda_stream)[1])
    del theirs
    gc.collect()
    here.cuda.settle()
    assert address not in here.cuda.device


def test_run_says_what_takes_an_array_that_is_on_the_gpu(here: Here) -> None:
    with here.open() as runner:
        x = Elsewhere(here.cuda, here.x(0))
        by_dlpack = SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=None)
        for value in (x, by_dlpack):
            with pytest.raises(
                GantkError, match=r"is in GPU memory; run\(...\) takes arrays in host"
            ) as caught:
                runner.run({here.names[0]: value})
            assert "launch(...) and bind(...) take it where it is" in str(caught.value.hint)


def test_an_output_must_not_lie_on_an_input(here: Here) -> None:
    with here.open() as runner:
        both = Elsewhere(here.cuda, np.zeros(2**14, np.float32))
        x, y = here.x(0), here.right(here.x(0)).astype(np.float32)

        def part(array: np.ndarray) -> Any:
            told = {**both.__cuda_array_interface__, "shape": array.shape}
            return SimpleNamespace(__cuda_array_interface__=told)

        with pytest.raises(
            GantkError, match=rf"`out` for '{here.names[1]}' and '{here.names[0]}' share memory"
        ):
            here.launch(runner, part(x), here.stream(), part(y))

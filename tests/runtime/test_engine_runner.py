# SPDX-License-Identifier: Apache-2.0
"""The runner of engines on fakes of the product and of CUDA: what it computes, and that it gives all back."""

from __future__ import annotations

import gc
from dataclasses import replace
from threading import Barrier, Thread

import numpy as np
import pytest

from engine_lab import SMALL, Lab, X, check, picture
from gantk.bundle import Bundle, ShapeRange, Writer
from gantk.errors import GantkError
from gantk.tensors import TensorSpec


def test_it_computes_at_every_shape(lab: Lab) -> None:
    with lab.open() as runner:
        for index, shape in enumerate([(1, 2, 4, 4), (4, 2, 16, 16), (1, 2, 64, 17), (3, 2, 5, 7)] * 3):
            check(runner, picture(*shape, seed=index))
        assert (runner.backend, runner.version, runner.device) == ("tensorrt-rtx", "1.7.1.116", "cuda")
        assert (runner.precision, runner.layers) == ("fp32", {"fp16": 1})
    assert lab.cuda.leaks == {}


def test_outputs_are_fresh_or_where_they_are_wanted(lab: Lab) -> None:
    with lab.open() as runner:
        first = runner.run({"x": picture(1, 2, 4, 4)})
        kept = first["y"].copy()
        mine = np.empty((1, 2, 4, 4), np.float32)
        second = runner.run({"x": picture(1, 2, 4, 4, seed=1)}, {"y": mine})
        assert second["y"] is mine
        np.testing.assert_array_equal(first["y"], kept)
        assert not np.array_equal(first["y"], mine)


def test_the_second_run_of_a_shape_is_a_graph(lab: Lab) -> None:
    with lab.open() as runner:
        lab.forget()
        check(runner, picture(1, 2, 8, 8))
        assert "cudaGraphLaunch" not in lab.cuda.calls
        check(runner, picture(1, 2, 8, 8, seed=1))
        assert lab.cuda.calls.count("cudaGraphInstantiate") == 1
        lab.forget()
        check(runner, picture(1, 2, 8, 8, seed=2))
        # Nothing else: the copies and the run are in the graph, and nothing is allocated.
        assert lab.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"]
        assert lab.trt.calls == []


def test_a_graph_is_made_again_when_its_memory_moves(lab: Lab) -> None:
    with lab.open() as runner:
        for _ in range(3):
            check(runner, picture(1, 2, 8, 8))
        check(runner, picture(4, 2, 16, 16))  # Larger than any before: the buffers move.
        lab.forget()
        for seed in range(3):
            check(runner, picture(1, 2, 8, 8, seed=seed))
        assert lab.cuda.calls.count("cudaGraphInstantiate") == 1
    assert lab.cuda.leaks == {}


def test_the_graphs_of_old_shapes_are_given_up(lab: Lab) -> None:
    with lab.open() as runner:
        for width in range(4, 17):
            for height in (4, 5):
                for seed in range(2):
                    check(runner, picture(1, 2, height, width, seed=seed))
        assert len(lab.cuda.graphs) <= 16
    assert lab.cuda.leaks == {}


@pytest.mark.parametrize("what", ["cudaStreamEndCapture", "cudaGraphInstantiate"])
def test_what_cannot_be_captured_runs_without_a_graph(lab: Lab, what: str) -> None:
    with lab.open() as runner:
        lab.cuda.fail[what] = 1
        for seed in range(4):
            check(runner, picture(1, 2, 8, 8, seed=seed))
        assert lab.cuda.calls.count("cudaStreamBeginCapture") == 1  # It is not tried again.
        assert "cudaGraphLaunch" not in lab.cuda.calls
    assert lab.cuda.leaks == {}


def test_what_a_product_cannot_tell_of_is_tried(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """As TensorRT cannot whether its engine can be captured."""
    monkeypatch.delattr("fake_tensorrt.Context.is_stream_capturable")
    with lab.open() as runner:
        for seed in range(3):
            check(runner, picture(1, 2, 8, 8, seed=seed))
        assert lab.cuda.calls.count("cudaGraphLaunch") == 2


def test_a_context_is_given_memory_for_its_shapes(lab: Lab) -> None:
    with lab.open() as runner:
        small, large = picture(1, 2, 8, 8), picture(1, 2, 20, 20)
        lab.forget()
        for _ in range(3):
            check(runner, small)
        # Of the lane's context, and of that of the graph.
        assert lab.trt.calls.count("update_device_memory_size_for_shapes") == 2
        assert runner.memory_bytes["activations"] == small.size
        check(runner, large)  # It moves, so that the graph of the small one knows a place that is gone.
        assert runner.memory_bytes["activations"] == large.size
        for _ in range(3):
            check(runner, small)
            check(runner, large)
        assert runner.memory_bytes["activations"] == large.size
        assert len(lab.cuda.graphs) == 2
    assert lab.cuda.leaks == {}


def test_threads_have_a_context_each(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    from gantk.runtime.backends import lane

    both, inside = Barrier(2, timeout=20), lane.Lane.run

    def run(self: lane.Lane, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        both.wait()
        return inside(self, arrays)

    with lab.open() as runner:
        monkeypatch.setattr(lane.Lane, "run", run)
        errors: list[BaseException] = []

        def work(seed: int) -> None:
            try:
                check(runner, picture(1, 2, 8, 8, seed=seed))
            except BaseException as error:
                errors.append(error)

        threads = [Thread(target=work, args=(seed,)) for seed in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert lab.trt.calls.count("create_execution_context") == 2
        # The first has run the probe, which is 2 x 2 x 6 x 5.
        assert runner.memory_bytes["activations"] == 128 + 128
        assert runner.memory_bytes["buffers"] >= 2 * (2 * 64 * 4 + 2 * 64 * 4 + 2 * 64)
    assert lab.cuda.leaks == {}


def test_a_shape_outside_every_profile(lab: Lab) -> None:
    with lab.open() as runner:
        with pytest.raises(GantkError) as caught:
            runner.run({"x": picture(2, 2, 20, 20)})
        assert (
            "serves x 1..4 x 2 x 4..16 x 4..16 or x 1 x 2 x 17..64 x 17..64; asked for is x 2x2x20x20"
            in str(caught.value)
        )
        check(runner, picture(1, 2, 4, 4))  # It goes on.


def test_closing_gives_everything_back(lab: Lab) -> None:
    runner = lab.open()
    check(runner, picture(1, 2, 8, 8))
    runner.close()
    runner.close()
    gc.collect()
    assert (lab.cuda.leaks, lab.trt.alive) == ({}, 0)
    with pytest.raises(GantkError, match="the runner is closed"):
        runner.run({"x": picture(1, 2, 8, 8)})


CALLS = [
    *(("cuda", name, 1) for name in ("cudaStreamCreateWithFlags", "cudaStreamSynchronize")),
    *(
        ("cuda", name, nth)
        for name in ("cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync")
        for nth in (1, 2, 3)
    ),
    ("cuda", "cudaGraphLaunch", 1),
    *(("trt", name, 1) for name in ("deserialize_cuda_engine", "create_execution_context")),
    *(
        ("trt", name, nth)
        for name in ("set_input_shape", "set_tensor_address", "execute_async_v3")
        for nth in (1, 2)
    ),
    ("trt", "set_optimization_profile_async", 1),
]


@pytest.mark.parametrize(("where", "name", "nth"), CALLS)
def test_a_failure_anywhere_is_said_and_leaks_nothing(lab: Lab, where: str, name: str, nth: int) -> None:
    """The third `execute_async_v3`, after the probe's and the first, is captured: it ends in a run without a graph."""
    failing = lab.cuda if where == "cuda" else lab.trt
    failing.fail[name] = nth

    def work() -> None:
        with lab.open() as runner:
            for shape in ((1, 2, 8, 8), (1, 2, 8, 8), (1, 2, 20, 20), (1, 2, 8, 8)):
                check(runner, picture(*shape))

    if (name, nth) == ("execute_async_v3", 3):
        work()
    else:
        with pytest.raises(GantkError) as caught:
            work()
        assert name in str(caught.value) or " MiB of " in str(caught.value) or "as told" in str(caught.value)
        caught.value.__traceback__ = None
        del caught
    gc.collect()
    assert (lab.cuda.leaks, lab.trt.alive) == ({}, 0)
    assert failing.calls.count(name) >= nth  # It was reached.


def test_a_failure_does_not_spoil_what_comes_after(lab: Lab) -> None:
    with lab.open() as runner:
        lab.cuda.fail["cudaMemcpyAsync"] = lab.cuda.calls.count("cudaMemcpyAsync") + 1
        with pytest.raises(GantkError, match="cudaMemcpyAsync failed: cudaErrorLaunchFailure"):
            runner.run({"x": picture(1, 2, 8, 8)})
        for seed in range(3):
            check(runner, picture(1, 2, 8, 8, seed=seed))


@pytest.mark.parametrize("name", ["cudaMalloc", "cudaMallocHost"])
@pytest.mark.parametrize("nth", [1, 2, 3])
def test_memory_that_could_not_be_had_leaves_the_other_shapes_right(lab: Lab, name: str, nth: int) -> None:
    """Buffers have moved or gone by then: the context must be told anew, and no old graph be launched."""
    with lab.open() as runner:
        for seed in range(3):
            check(runner, picture(1, 2, 8, 8, seed=seed))
        check(runner, picture(1, 2, 4, 4))
        lab.cuda.fail[name] = lab.cuda.calls.count(name) + nth
        with pytest.raises(GantkError, match="MiB of"):
            runner.run({"x": picture(4, 2, 16, 16)})
        for seed in range(3):
            check(runner, picture(1, 2, 8, 8, seed=seed))
        for seed in range(2):
            check(runner, picture(1, 2, 4, 4, seed=seed))
            check(runner, picture(4, 2, 16, 16, seed=seed))
    assert lab.cuda.leaks == {}


def test_a_shape_that_the_library_refuses_halfway_leaves_the_last_one_right(lab: Lab) -> None:
    with lab.open() as runner:
        check(runner, picture(1, 2, 8, 8))
        for name in ("set_tensor_address", "set_input_shape"):
            lab.trt.fail[name] = lab.trt.calls.count(name) + 1
            with pytest.raises(GantkError, match="as told"):
                runner.run({"x": picture(1, 2, 4, 4 + len(name) % 2)})
            check(runner, picture(1, 2, 8, 8, seed=1))


def test_out_of_memory_says_how_much(lab: Lab) -> None:
    with lab.open() as runner:
        lab.cuda.fail["cudaMalloc"] = lab.cuda.calls.count("cudaMalloc") + 1
        with pytest.raises(GantkError, match=r"a context of .* wants 0\.0 MiB of GPU memory"):
            runner.run({"x": picture(1, 2, 32, 32)})
        lab.cuda.fail["cudaMalloc"] = lab.cuda.calls.count("cudaMalloc") + 2
        with pytest.raises(
            GantkError, match=r"'x' of .* wants 0\.0 MiB of GPU memory .*; 1024\.0 of 1024\.0 MiB are free"
        ):
            runner.run({"x": picture(1, 2, 64, 64)})
    lab.trt.fail["create_execution_context"] = lab.trt.calls.count("create_execution_context") + 1
    with pytest.raises(GantkError, match=r"a context of .* wants 3\.0 MiB of GPU memory .*as told"):
        lab.open()


def test_every_input_has_its_shape(lab: Lab) -> None:
    w = TensorSpec("w", "float32", ("K",))
    profile = {**SMALL, "w": ShapeRange((1,), (2,), (3,))}
    lab.trt.inputs, lab.trt.profiles = (X, w), (profile,)
    (engine,) = Bundle.read(lab.root).manifest.engines
    with Writer(lab.root, force=True) as writer:
        manifest = replace(Bundle.read(lab.root).manifest, inputs=(X, w), probe=None)
        writer.commit(replace(manifest, engines=(replace(engine, profiles=(profile,)),)))
    x = picture(1, 2, 8, 8)
    with lab.open() as runner:
        for count in (1, 3):
            made = runner.run({"x": x, "w": np.ones(count, np.float32)})
            np.testing.assert_allclose(made["y"], 2 * x + 1, rtol=1e-6)
        with pytest.raises(GantkError, match="asked for is x 1x2x8x8, w 4"):
            runner.run({"x": x, "w": np.ones(4, np.float32)})

# SPDX-License-Identifier: Apache-2.0
"""Engines' runs as CUDA graphs, each with a context of its own."""

from __future__ import annotations

import pytest

from engine_lab import Lab, check, picture
from gantk.errors import GantkError
from gantk.runtime.backends.plans import LIMIT


def test_what_the_product_knows_not_to_be_capturable_is_not_tried(lab: Lab) -> None:
    lab.trt.capturable = False
    with lab.open() as runner:
        for seed in range(4):
            check(runner, picture(1, 2, 8, 8, seed=seed))
        runner.bind({"x": picture(1, 2, 8, 8)})()
        assert "cudaStreamBeginCapture" not in lab.cuda.calls
    assert lab.cuda.leaks == {}


def test_every_run_has_the_kernels_of_its_shape(lab: Lab) -> None:
    """A graph keeps those that it was captured with."""
    with lab.open() as runner:
        for _ in range(2):
            check(runner, picture(1, 2, 8, 8))
        runner.bind({"x": picture(1, 2, 8, 8)})
    assert len(lab.trt.eager) == 6
    assert all(lab.trt.eager)


def test_every_graph_has_a_context_that_is_told_nothing_else(lab: Lab) -> None:
    """And it goes with the graph, also where shapes come and go."""
    with lab.open() as runner:
        first = lab.trt.alive
        for seed in range(2 * LIMIT):
            for _ in range(3):
                check(runner, picture(1, 2, 8, 4 + seed % 13, seed=seed))
                check(runner, picture(1, 2, 20, 17 + seed % 24, seed=seed))
        assert lab.trt.alive <= first + LIMIT
        graphs = lab.cuda.calls.count("cudaGraphInstantiate")
        assert lab.cuda.calls.count("cudaGraphLaunch") > graphs > LIMIT
        contexts = lab.trt.alive
        lab.trt.fail["create_execution_context"] = lab.trt.calls.count("create_execution_context") + 1
        for seed in range(3):  # Without one for a graph, there is no graph.
            check(runner, picture(2, 2, 5, 5, seed=seed))
        assert lab.trt.alive < contexts  # The oldest one went.
        assert lab.cuda.calls.count("cudaGraphInstantiate") == graphs
    assert lab.cuda.leaks == {}


def test_a_context_that_refuses_memory_does_not_run_in_what_it_had(lab: Lab) -> None:
    """The call that gives it says nothing; the logger does."""
    with lab.open() as runner:
        check(runner, picture(1, 2, 8, 8))
        lab.trt.fail["set_device_memory"] = lab.trt.calls.count("set_device_memory") + 1
        with pytest.raises(
            GantkError, match="cannot take memory for these shapes: set_device_memory: Error Code 1"
        ):
            runner.run({"x": picture(1, 2, 20, 20)})
        check(runner, picture(1, 2, 20, 20))
    assert lab.cuda.leaks == {}


def test_a_context_that_does_not_say_what_it_wants_gets_the_most(lab: Lab) -> None:
    """The library says 0 where it fails."""
    with lab.open() as runner:
        name = "update_device_memory_size_for_shapes"
        lab.trt.fail[name] = lab.trt.calls.count(name) + 1
        check(runner, picture(1, 2, 8, 8))
        assert runner.memory_bytes["activations"] == 3 * 2**20
        check(runner, picture(1, 2, 20, 20))
    assert lab.cuda.leaks == {}

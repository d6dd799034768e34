# SPDX-License-Identifier: Apache-2.0
"""Runners on (fake) GPUs among threads, captures and other GPUs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

import fake_tensorrt
from engine_lab import Elsewhere, Lab, check, picture
from gantk.errors import GantkError
from gantk.runtime import driver
from gantk.runtime.product_log import log
from gpu_backends import Here, in_a_thread


@pytest.fixture
def two(here: Here, monkeypatch: pytest.MonkeyPatch) -> Here:
    """The first GPU is one on which the product runs no engine."""
    found = driver.Driver(True, "13.0", ("H100", "RTX 4090"), targets=("sm_90", "sm_89"))
    monkeypatch.setattr(driver, "probe", lambda: found)
    return here


def test_a_runner_stays_on_the_gpu_of_the_thread_that_opened_it(two: Here) -> None:
    cuda = two.cuda
    cuda.cudaSetDevice(1)
    with two.open() as runner:
        x, theirs = Elsewhere(cuda, two.x(0)), two.stream()
        found: dict[str, Any] = {}

        def work() -> None:
            for _ in range(3):
                two.check(runner.run({two.names[0]: two.x(2)})[two.names[1]], two.x(2))
            found["launched"] = two.launch(runner, x, theirs)
            found["bound"] = runner.bind({two.names[0]: two.x(1)})
            for _ in range(2):
                found["bound"]()
            two.check(found["bound"].fetch()[two.names[1]], two.x(1))
            runner.synchronize()
            found["launched"].__dlpack__(stream=None)
            assert found["launched"].__dlpack_device__() == (2, 1)
            assert "GPU 1" in repr(found["launched"])
            assert cuda.current == 0

        in_a_thread(work)
        two.check(two.values(found["launched"]), x.array)
        two.check(two.values(found["bound"].outputs[two.names[1]]), two.x(1))
        assert cuda.gpu_of(found["launched"].address) == 1
        in_a_thread(found.clear)  # Where nobody has that GPU current.
    in_a_thread(runner.close)


def test_a_thread_finds_its_own_contexts_again(two: Here) -> None:
    """Such as pycuda pushes, and pops."""
    cuda = two.cuda
    cuda.cudaSetDevice(1)
    with two.open() as runner:

        def work() -> None:
            cuda.cuCtxPushCurrent(1)
            runner.run({two.names[0]: two.x(0)})
            assert cuda.cuCtxPopCurrent()[1] == 1
            assert cuda.cuCtxGetCurrent()[1] == 0

        in_a_thread(work)


def test_a_gpu_beside_it_is_no_trouble(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here one on which the product runs no engine, after the one that is current."""
    found = driver.Driver(True, "13.0", ("RTX 4090", "H100"), targets=("sm_89", "sm_90"))
    monkeypatch.setattr(driver, "probe", lambda: found)
    with here.open() as runner:
        here.check(runner.run({here.names[0]: here.x(0)})[here.names[1]], here.x(0))


def test_a_gpu_that_is_not_the_runners_is_refused(two: Here) -> None:
    two.cuda.cudaSetDevice(1)
    with two.open() as runner:
        x = SimpleNamespace(__dlpack_device__=lambda: (2, 0), __dlpack__=None)
        with pytest.raises(GantkError, match="is on GPU 0; the network is on GPU 1"):
            two.launch(runner, x, 1)


def while_captured(here: Here, monkeypatch: pytest.MonkeyPatch, work: Callable[[], None]) -> None:
    """Do something when the next capture has begun."""
    begin = here.cuda.cudaStreamBeginCapture

    def capture(*arguments: Any) -> Any:
        found = begin(*arguments)
        monkeypatch.setattr(here.cuda, "cudaStreamBeginCapture", begin)
        work()
        return found

    monkeypatch.setattr(here.cuda, "cudaStreamBeginCapture", capture)


ACTIONS: dict[str, Callable[[Here, Any, Any], object]] = {
    "bound": lambda here, runner, bound: bound(),
    "bind": lambda here, runner, bound: runner.bind({here.names[0]: here.x(3)})(),
    "synchronize": lambda here, runner, bound: runner.synchronize(),
    "dlpack": lambda here, runner, bound: bound.outputs[here.names[1]].__dlpack__(stream=here.stream()),
    "run": lambda here, runner, bound: runner.run({here.names[0]: here.x(4)}),
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_capture_is_left_alone_by_other_threads(
    here: Here, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    with here.open() as runner:
        x = Elsewhere(here.cuda, here.x(0))
        bound = runner.bind({here.names[0]: here.x(0)})
        here.launch(runner, x, here.stream())
        runner.run({here.names[0]: here.x(1)})
        errors: list[BaseException] = []

        def work() -> None:
            try:
                ACTIONS[action](here, runner, bound)
            except BaseException as error:
                errors.append(error)

        thread = threading.Thread(target=work)

        def begun() -> None:
            thread.start()
            thread.join(0.1)  # What waits for its turn goes on afterwards.

        while_captured(here, monkeypatch, begun)
        here.cuda.calls.clear()
        for seed in range(3):
            here.check(runner.run({here.names[0]: here.x(seed)})[here.names[1]], here.x(seed))
        thread.join(20)
        assert (errors, thread.is_alive()) == ([], False)
        assert here.cuda.calls.count("cudaGraphLaunch") >= 3


def test_an_interruption_ends_the_capture(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(stream: int, job: Callable[[], None]) -> None:
        raise KeyboardInterrupt

    with here.open() as runner:
        for seed in range(2):
            runner.run({here.names[0]: here.x(seed)})
            with monkeypatch.context() as patch:
                while_captured(here, patch, lambda: patch.setattr(here.cuda, "work", interrupt))
                with pytest.raises(KeyboardInterrupt):
                    runner.bind({here.names[0]: here.x(1)})
            assert here.cuda.recording == {}
        for seed in range(3):
            here.check(runner.run({here.names[0]: here.x(seed)})[here.names[1]], here.x(seed))
        here.check(here.values(runner.bind({here.names[0]: here.x(5)})()[here.names[1]]), here.x(5))


def test_one_shape_that_cannot_be_captured_leaves_the_others_their_graphs(here: Here) -> None:
    with here.open() as runner:
        runner.run({here.names[0]: here.x(0)})
        here.cuda.fail["cudaStreamEndCapture"] = here.cuda.calls.count("cudaStreamEndCapture") + 1
        for seed in range(3):
            here.check(runner.run({here.names[0]: here.x(seed)})[here.names[1]], here.x(seed))
        begun = here.cuda.calls.count("cudaStreamBeginCapture")
        assert here.cuda.calls.count("cudaGraphLaunch") == 0
        for seed in range(3):
            x = here.smaller(seed)
            here.check(runner.run({here.names[0]: x})[here.names[1]], x)
        assert here.cuda.calls.count("cudaStreamBeginCapture") == begun + 1
        assert here.cuda.calls.count("cudaGraphLaunch") == 2


def test_engines_of_threads_are_enqueued_side_by_side(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    both, inside = threading.Barrier(2, timeout=5), fake_tensorrt.Context.execute_async_v3

    def execute(self: fake_tensorrt.Context, stream: int) -> bool:
        both.wait()
        return inside(self, stream)

    with lab.open() as runner:
        monkeypatch.setattr(fake_tensorrt.Context, "execute_async_v3", execute)
        threads = [
            threading.Thread(target=check, args=(runner, picture(1, 2, 8, 8, seed=seed))) for seed in range(2)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not both.broken


def test_each_thread_hears_what_is_said_in_its_own_calls(lab: Lab) -> None:
    heard, said = log(lab.trt), {}
    both = threading.Barrier(2, timeout=5)

    def work(name: str) -> None:
        with heard.listening():
            both.wait()
            with heard.listening():  # What is said before is of something else.
                heard.hear(name)
            both.wait()
            said[name] = heard.said()
            both.wait()

    thread = threading.Thread(target=work, args=("one",))
    thread.start()
    work("two")
    thread.join()
    assert said == {"one": "one", "two": "two"}
    with heard.listening():
        in_a_thread(lambda: heard.hear("of a thread of the library's"))
        heard.hear("of its own")
        assert heard.said() == "of a thread of the library's; of its own"


def test_a_thread_of_the_librarys_is_heard_by_all_that_listen(lab: Lab) -> None:
    heard, said = log(lab.trt), {}
    all_three = threading.Barrier(3, timeout=5)

    def work(name: str) -> None:
        with heard.listening():
            all_three.wait()
            all_three.wait()
            said[name] = heard.said()

    threads = [threading.Thread(target=work, args=(name,)) for name in ("one", "two")]
    for thread in threads:
        thread.start()
    all_three.wait()
    in_a_thread(lambda: heard.hear("out of memory"))
    all_three.wait()
    for thread in threads:
        thread.join()
    assert said == {"one": "out of memory", "two": "out of memory"}
    with heard.listening():
        heard.hear("of its own")
    in_a_thread(lambda: heard.hear("of a call after it"))
    assert heard.said() == "of its own"

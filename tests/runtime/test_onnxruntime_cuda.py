# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on a (fake) GPU: bound memory, graphs for what comes again, and arrays that stay there."""

from __future__ import annotations

import gc
import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import settings as trials
from hypothesis import strategies as st
from onnx import TensorProto, helper

import fake_onnxruntime
import gantk
import networks
from engine_lab import Elsewhere
from fake_onnxruntime import REAL, FakeProvider, FakeSession
from gantk.errors import GantkError
from gantk.runtime.backends import onnxruntime_settings, plans
from gantk.runtime.backends.gpu import Bound
from gantk.runtime.backends.onnxruntime_cuda import CudaRunner
from gantk.runtime.backends.onnxruntime_settings import settings
from gantk.runtime.model import from_path
from gantk.runtime.runner import Array


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    return fake_onnxruntime.install(monkeypatch)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "x.onnx").write_bytes(networks.generator())
    return tmp_path / "x.onnx"


def opened(path: Path) -> CudaRunner:
    runner = gantk.open(path, "onnxruntime", device="cuda")
    assert isinstance(runner, CudaRunner)
    return runner


@pytest.fixture
def runner(provider: FakeProvider, path: Path) -> Iterator[CudaRunner]:
    with opened(path) as runner:
        yield runner
    gc.collect()
    assert provider.cuda.leaks == {}


def latent(batch: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((batch, networks.LATENT), np.float32)


def wanted(path: Path, x: Array) -> Array:
    session = REAL(str(path), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"latent": x})[0])


def made_of(
    path: Path, nodes: Sequence[onnx.NodeProto], output: str, shape: Sequence[str | int | None]
) -> Path:
    """A network of one input x [N, 4]."""
    kind = TensorProto.INT64 if output == "places" else TensorProto.FLOAT
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph(nodes, "g", [x], [helper.make_tensor_value_info(output, kind, shape)])
    path.write_bytes(networks.model_bytes(graph))
    return path


def test_shapes_that_come_again_are_graphs(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    for seed, batch in enumerate((1, 8, 1, 1, 8, 64, 8, 1)):
        x = latent(batch, seed)
        np.testing.assert_array_equal(runner.run({"latent": x})["picture"], wanted(path, x))
    calls = provider.cuda.calls
    # What wants more memory moves all: 8 voids what was kept of 1, and 64 the graphs of both.
    assert (calls.count("cudaStreamEndCapture"), calls.count("cudaGraphLaunch")) == (2, 2)
    provider.cuda.calls.clear()
    for seed in range(3):
        x = latent(1, seed)
        np.testing.assert_array_equal(runner.run({"latent": x})["picture"], wanted(path, x))
    assert provider.cuda.calls.count("cudaGraphLaunch") == 3
    assert provider.cuda.calls.count("cudaMemcpyAsync") == 2  # While captured: they are in the graph.
    kept = runner._runs.get((x.shape,))  # As the test on a GPU asks for it, which seldom runs.
    assert kept is not None
    assert kept.graph is not None


def test_shapes_that_take_turns_are_graphs(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    """The provider plans its convolutions anew where another shape ran before, which a capture may forbid."""
    for seed, batch in enumerate((8, 1) * 4):
        x = latent(batch, seed)
        np.testing.assert_array_equal(runner.run({"latent": x})["picture"], wanted(path, x))
    assert provider.cuda.calls.count("cudaStreamBeginCapture") == 2
    assert provider.cuda.calls.count("cudaGraphLaunch") == 6
    assert provider.runs == 2 + 2 * 2  # First, and for each graph before and while it is captured.


def test_what_the_session_is_told(runner: CudaRunner, provider: FakeProvider) -> None:
    told = dict(provider.settings)
    assert int(told.pop("user_compute_stream")) in provider.cuda.streams
    # Without the number of the GPU, the first: a session that is told one warns on stderr (1.26 and later).
    assert told == {"use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "prefer_nhwc": "1"}
    assert (runner.device, runner.precision, runner.backend) == ("cuda", "fp32", "onnxruntime")


def test_a_session_on_another_gpu_is_told_its_number(provider: FakeProvider, path: Path) -> None:
    provider.cuda.cudaSetDevice(1)
    with opened(path) as runner:
        assert provider.settings["device_id"] == "1"
        x = latent(2)
        np.testing.assert_array_equal(runner.run({"latent": x})["picture"], wanted(path, x))


def test_channels_stay_first_where_operators_want_them(provider: FakeProvider, tmp_path: Path) -> None:
    pads = helper.make_node("Constant", [], ["pads"], value_ints=[0, 1, 0, 1])
    nodes = [pads, helper.make_node("Pad", ["x", "pads"], ["y"])]
    with opened(made_of(tmp_path / "x.onnx", nodes, "y", ["N", 6])) as runner:
        assert provider.settings["prefer_nhwc"] == "0"
        x = latent(2)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], np.pad(x, ((0, 0), (1, 1))))


def test_channels_come_last_where_that_was_measured_faster(provider: FakeProvider, tmp_path: Path) -> None:
    forms = {("fp32", form): networks.generator() for form in ("plain", "rewritten")}
    path = tmp_path / "x.gantk"
    networks.bundle(path, forms, fastest_on={("fp32", "rewritten"): ["onnxruntime cuda"]})
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["variants"][1]["rewrites"] = ["channels-last"]
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert [from_path(path, form=form).channels_last for form in ("plain", "rewritten")] == [False, True]
    told = settings("fp16", frozenset({"Conv", "Pad"}), channels_last=True)
    assert told["prefer_nhwc"] == "1"
    assert settings("fp16", frozenset({"Conv", "Pad"}))["prefer_nhwc"] == "0"


def test_files_are_judged_alike_in_cpp() -> None:
    source = (networks.ROOT / "toolkit/cpp/src/onnxruntime/settings.cpp").read_text(encoding="utf-8")
    for name, kinds in (
        ("both_layouts", onnxruntime_settings._BOTH_LAYOUTS),
        ("one_layout", onnxruntime_settings._ONE_LAYOUT),
        ("new_every_time", onnxruntime_settings._NEW_EVERY_TIME),
    ):
        told = re.search(rf"{name} = {{(.*?)}};", source, re.DOTALL)
        assert told is not None
        assert set(re.findall(r'"(\w+)"', told[1])) == kinds


def test_the_form_measured_faster_on_a_gpu(provider: FakeProvider, tmp_path: Path) -> None:
    forms = {
        ("fp32", form): networks.generator(seed=seed) for seed, form in enumerate(("plain", "rewritten"))
    }
    networks.bundle(tmp_path / "x.gantk", forms, fastest_on={("fp32", "rewritten"): ["onnxruntime cuda"]})
    right = {}
    for (_, form), data in forms.items():
        (tmp_path / form).write_bytes(data)
        right[form] = wanted(tmp_path / form, latent(2))
    with opened(tmp_path / "x.gantk") as runner:
        np.testing.assert_array_equal(runner.run({"latent": latent(2)})["picture"], right["rewritten"])


def test_arrays_on_the_gpu(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    _, stream = provider.cuda.cudaStreamCreateWithFlags(1)
    x, y = Elsewhere(provider.cuda, latent(2)), Elsewhere(provider.cuda, np.zeros((2, 3, 8, 8), np.float32))
    ours = int(provider.settings["user_compute_stream"])
    for seed in range(4):
        x.array[...] = latent(2, seed)
        provider.cuda.calls.clear()
        provider.cuda.waits.clear()
        outputs = runner.launch({"latent": x}, stream, {"picture": y})
        assert outputs == {"picture": y}
        assert provider.cuda.waits == [(ours, stream), (stream, ours)]
        runner.synchronize()
        np.testing.assert_array_equal(y.array, wanted(path, x.array))
        assert ("cudaGraphLaunch" in provider.cuda.calls) == (seed > 0)
        assert "cudaMemcpyAsync" not in provider.cuda.calls
    fresh = runner.launch({"latent": x}, stream)["picture"]
    provider.cuda.cudaStreamSynchronize(stream)
    held = np.frombuffer(provider.cuda.device[fresh.address], np.float32).reshape(fresh.shape)
    np.testing.assert_array_equal(held, y.array)
    for array in (x, y):
        provider.cuda.cudaFree(array.address)
    provider.cuda.cudaStreamDestroy(stream)
    del fresh, outputs


def test_arrays_within_larger_ones(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    """Kernels read 16 bytes at once, and whoever reads so from elsewhere ends all work on the GPU."""
    x, early, late = (Elsewhere(provider.cuda, latent(2), offset=offset) for offset in (16, 8, 24))
    y = Elsewhere(provider.cuda, np.zeros((2, 3, 8, 8), np.float32), offset=48)
    runner.launch({"latent": x}, 0, {"picture": y})
    runner.synchronize()
    np.testing.assert_array_equal(y.array, wanted(path, x.array))
    for other in (early, late):
        with pytest.raises(GantkError, match="'latent' does not begin at a multiple of 16 bytes"):
            runner.launch({"latent": other}, 0, {"picture": y})
        with pytest.raises(GantkError, match="'latent' does not begin at a multiple of 16 bytes"):
            runner.bind({"latent": other})
    for array in (x, early, late, y):
        provider.cuda.cudaFree(array.address - array.offset)


def test_bound_runs(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    x = latent(5)
    bound = runner.bind({"latent": x})
    twin = np.frombuffer(provider.cuda.device[bound.inputs["latent"].address], np.float32).reshape(x.shape)
    provider.cuda.calls.clear()
    for seed in range(3):
        twin[...] = latent(5, seed)
        found = bound(stream=-1)["picture"]
        held = np.frombuffer(provider.cuda.device[found.address], np.float32).reshape(5, 3, 8, 8)
        np.testing.assert_array_equal(held, wanted(path, twin))
    assert provider.cuda.calls == ["cudaGraphLaunch", "cudaStreamSynchronize"] * 3
    runner.run({"latent": x})  # Beside it.
    held = np.frombuffer(provider.cuda.device[bound()["picture"].address], np.float32).reshape(5, 3, 8, 8)
    np.testing.assert_array_equal(held, wanted(path, twin))
    runner.close()
    with pytest.raises(GantkError, match="closed"):
        bound()
    del bound, found
    with pytest.raises(GantkError, match="closed"):
        runner.bind({"latent": x})


def test_a_bound_run_takes_arrays_on_the_gpu(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    x = Elsewhere(provider.cuda, latent(3))
    bound = runner.bind({"latent": x})
    assert bound.inputs == {"latent": x}
    x.array[...] = latent(3, 7)
    held = np.frombuffer(provider.cuda.device[bound()["picture"].address], np.float32)
    np.testing.assert_array_equal(held.reshape(3, 3, 8, 8), wanted(path, x.array))
    provider.cuda.cudaFree(x.address)
    with pytest.raises(GantkError, match="float64"):
        runner.bind({"latent": latent(3).astype(np.float64)})
    del bound


@pytest.mark.parametrize("op", ["RandomNormalLike", "Bernoulli"])
def test_noise_is_new_every_time(provider: FakeProvider, tmp_path: Path, op: str) -> None:
    nodes = [helper.make_node(op, ["x"], ["y"])]
    with opened(made_of(tmp_path / "x.onnx", nodes, "y", ["N", 4])) as runner:
        x = np.full((64, 4), 0.5, np.float32)
        found = [runner.run({"x": x})["y"].tobytes() for _ in range(4)]
        assert len(set(found)) == 4
        bound = runner.bind({"x": x})
        first = bytes(provider.cuda.device[bound()["y"].address])
        assert first != bytes(provider.cuda.device[bound()["y"].address])
    assert "cudaStreamBeginCapture" not in provider.cuda.calls
    del bound


@pytest.mark.parametrize(
    ("kind", "somewhere", "replays"),
    [
        ("Memcpy", "main memory", False),
        ("Memcpy", "the GPU", True),
        ("Host", "nowhere", False),
        ("Memset", "nowhere", True),
    ],
)
def test_a_graph_that_copies_what_is_gone_is_not_launched(
    provider: FakeProvider, path: Path, kind: str, somewhere: str, replays: bool
) -> None:
    """As ONNX Runtime leaves it of sizes that it computes on the CPU."""
    memory = Elsewhere(provider.cuda, np.zeros(4))
    provider.leaves = kind, {"main memory": 0x1000, "the GPU": memory.address, "nowhere": 0}[somewhere]
    with opened(path) as runner:
        for seed in range(3):
            x = latent(2, seed)
            np.testing.assert_array_equal(runner.run({"latent": x})["picture"], wanted(path, x))
        assert runner.bind({"latent": latent(2)}).is_graph == replays
    assert ("cudaGraphLaunch" in provider.cuda.calls) == replays
    provider.cuda.cudaFree(memory.address)
    assert provider.cuda.leaks == {}


def test_a_launch_is_no_part_of_a_graph_of_the_callers(
    runner: CudaRunner, provider: FakeProvider, path: Path
) -> None:
    """Its memory between layers would be the next run's too, on another stream."""
    cuda, (_, theirs) = provider.cuda, provider.cuda.cudaStreamCreateWithFlags(1)
    x, y = Elsewhere(cuda, latent(2)), Elsewhere(cuda, wanted(path, latent(2)))
    for _ in range(3):
        runner.launch({"latent": x}, theirs, {"picture": y})
        cuda.cudaStreamBeginCapture(theirs, 1)
        with pytest.raises(GantkError, match="of which a run of ONNX Runtime cannot be a part"):
            runner.launch({"latent": x}, theirs, {"picture": y})
        cuda.cudaGraphDestroy(cuda.cudaStreamEndCapture(theirs)[1])
    np.testing.assert_array_equal(runner.run({"latent": latent(2, 1)})["picture"], wanted(path, latent(2, 1)))
    runner.synchronize()
    cuda.cudaStreamDestroy(theirs)
    for array in (x, y):
        cuda.cudaFree(array.address)


def test_sizes_that_only_a_run_tells(
    provider: FakeProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("no such kernel")

    nodes = [helper.make_node("NonZero", ["x"], ["places"])]
    with opened(made_of(tmp_path / "x.onnx", nodes, "places", [2, None])) as runner:
        for count in (1, 3, 2):
            x = np.eye(4, dtype=np.float32)[:count]
            np.testing.assert_array_equal(runner.run({"x": x})["places"], np.nonzero(x))
        with pytest.raises(GantkError, match="told by a run alone"):
            runner.launch({"x": Elsewhere(provider.cuda, x)}, 0)
        with pytest.raises(GantkError, match="told by a run alone"):
            runner.bind({"x": x})
        monkeypatch.setattr(FakeSession, "run", fail, raising=False)
        with pytest.raises(GantkError, match="onnxruntime failed to run the network: no such kernel"):
            runner.run({"x": x})


def test_what_is_read_in_main_memory_is_not_bound(provider: FakeProvider, tmp_path: Path) -> None:
    """As the limits of Clip are: bound to the GPU's memory, they would be copied once and for all."""
    ends = ("x", "least")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(ends, (["N", 4], []), strict=True)
    ]
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
    graph = helper.make_graph([helper.make_node("Clip", ends, ["y"])], "g", values, [y])
    (tmp_path / "x.onnx").write_bytes(networks.model_bytes(graph))
    provider.in_main_memory = {"least"}
    with opened(tmp_path / "x.onnx") as runner:
        for least in (-1, 0, 1):
            feeds = {"x": latent(2), "least": np.float32(least)}
            np.testing.assert_array_equal(runner.run(feeds)["y"], np.maximum(latent(2), least))
        with pytest.raises(GantkError, match="wants 'least' in main memory, so it cannot be bound"):
            runner.bind(feeds)
    assert "cudaStreamBeginCapture" not in provider.cuda.calls


def test_what_cannot_be_captured_runs_as_it_is(
    runner: CudaRunner, provider: FakeProvider, path: Path
) -> None:
    provider.fail = {2, 3}  # The capture, and the call after, which hears of it.
    for seed in range(4):
        x = latent(2, seed)
        np.testing.assert_array_equal(runner.run({"latent": x})["picture"], wanted(path, x))
    assert provider.cuda.calls.count("cudaStreamBeginCapture") == 1
    assert "cudaGraphLaunch" not in provider.cuda.calls


def test_a_bound_run_that_cannot_be_captured_runs_as_it_is(
    runner: CudaRunner, provider: FakeProvider, path: Path
) -> None:
    provider.fail = {2, 3}
    bound = runner.bind({"latent": latent(2)})
    for _ in range(2):
        held = np.frombuffer(provider.cuda.device[bound()["picture"].address], np.float32)
        np.testing.assert_array_equal(held.reshape(2, 3, 8, 8), wanted(path, latent(2)))
    assert "cudaGraphLaunch" not in provider.cuda.calls
    del bound


def test_a_run_that_fails_is_told_of(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    provider.fail = {1}
    with pytest.raises(GantkError, match="not while the stream is capturing"):
        runner.run({"latent": latent(2)})
    np.testing.assert_array_equal(runner.run({"latent": latent(2)})["picture"], wanted(path, latent(2)))


def test_few_graphs_are_kept(runner: CudaRunner, provider: FakeProvider, path: Path) -> None:
    runner.run({"latent": latent(64)})
    for batch in (*range(1, plans.LIMIT + 4), *range(1, plans.LIMIT + 4)):
        for seed in range(2):
            x = latent(batch, seed)
            np.testing.assert_array_equal(runner.run({"latent": x})["picture"], wanted(path, x))
        assert len(provider.cuda.graphs) <= plans.LIMIT


def test_threads_take_turns(runner: CudaRunner, path: Path) -> None:
    inputs = [latent(1 + seed % 3, seed) for seed in range(24)]
    right, found = [wanted(path, x) for x in inputs], {}

    def work(first: int) -> None:
        for index in range(first, len(inputs), 4):
            found[index] = runner.run({"latent": inputs[index]})["picture"]

    threads = [threading.Thread(target=work, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, picture in enumerate(right):
        np.testing.assert_array_equal(found[index], picture)


ACTIONS: dict[str, Callable[[CudaRunner], object]] = {
    "run": lambda runner: [runner.run({"latent": latent(2)}) for _ in range(3)],
    "bind": lambda runner: runner.bind({"latent": latent(2)})(),
}


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize(
    "name",
    ["cudaMalloc", "cudaMallocHost", "cudaStreamCreateWithFlags", "cudaMemcpyAsync", "cudaGraphLaunch"],
)
def test_nothing_leaks_where_cuda_fails(provider: FakeProvider, path: Path, action: str, name: str) -> None:
    for nth in (1, 2):
        provider.cuda.fail = {name: provider.cuda.calls.count(name) + nth}
        try:
            with opened(path) as runner:
                ACTIONS[action](runner)
        except GantkError as error:
            assert error.what
        provider.cuda.fail = {}
        gc.collect()
        assert provider.cuda.leaks == {}


def test_a_session_that_does_not_load_leaks_nothing(
    provider: FakeProvider, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no such kernel")

    monkeypatch.setattr("onnxruntime.InferenceSession", fail)
    with pytest.raises(GantkError, match="ONNX Runtime cannot load .*: no such kernel"):
        opened(path)
    assert provider.cuda.leaks == {}


def test_closing_twice(provider: FakeProvider, path: Path) -> None:
    runner = opened(path)
    runner.run({"latent": latent(1)})
    for _ in range(2):
        runner.close()
    with pytest.raises(GantkError, match="closed"):
        runner.run({"latent": latent(1)})
    with pytest.raises(GantkError, match="closed"):
        runner.launch({"latent": Elsewhere(provider.cuda, latent(1))}, 0)


@trials(max_examples=25, deadline=None, derandomize=True)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["run", "launch", "again", "bind", "call"]), st.integers(1, 6)),
        min_size=4,
        max_size=24,
    )
)
def test_any_order_of_runs_gives_the_right_pictures(
    provider: FakeProvider, path: Path, steps: list[tuple[str, int]]
) -> None:
    """Of more shapes than are kept, with arrays that stay and arrays that go, and bound runs beside them.

    Whatever the order in which streams do their work.
    """
    cuda = provider.cuda
    cuda.schedule.shuffle(len(steps))
    session = REAL(str(path), providers=["CPUExecutionProvider"])
    bounds: list[Bound] = []
    kept: dict[int, tuple[Elsewhere, Elsewhere]] = {}

    def held(array: Any, shape: Sequence[int]) -> Array:
        return np.frombuffer(cuda.device[array.address], np.float32).reshape(shape)

    _, stream = cuda.cudaStreamCreateWithFlags(1)
    with pytest.MonkeyPatch.context() as patch, opened(path) as runner:
        patch.setattr(plans, "LIMIT", 2)
        for seed, (step, batch) in enumerate(steps):
            x = latent(batch, seed)
            if step == "run":
                found = runner.run({"latent": x})["picture"]
            elif step == "launch":
                theirs = Elsewhere(cuda, x)
                output = runner.launch({"latent": theirs}, stream)["picture"]
                runner.synchronize()
                found = held(output, (batch, 3, 8, 8)).copy()
                cuda.cudaFree(theirs.address)
            elif step == "again":
                if batch not in kept:
                    kept[batch] = Elsewhere(cuda, x), Elsewhere(cuda, np.zeros((batch, 3, 8, 8), np.float32))
                theirs, out = kept[batch]
                theirs.array[...] = x
                runner.launch({"latent": theirs}, stream, {"picture": out})
                runner.synchronize()
                found = out.array
            else:
                if step == "bind" or not bounds:
                    bounds.append(runner.bind({"latent": x}))
                index = batch % len(bounds)
                shape = bounds[index].inputs["latent"].shape
                x = latent(shape[0], seed)
                held(bounds[index].inputs["latent"], shape)[...] = x
                found = held(bounds[index]()["picture"], (shape[0], 3, 8, 8))
            np.testing.assert_array_equal(found, session.run(None, {"latent": x})[0])
    for array in (array for pair in kept.values() for array in pair):
        cuda.cudaFree(array.address)
    cuda.cudaStreamDestroy(stream)
    bounds.clear()
    output = None
    gc.collect()
    assert cuda.leaks == {}

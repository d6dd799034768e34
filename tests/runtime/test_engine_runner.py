# SPDX-License-Identifier: Apache-2.0
"""The runner of engines on a fake of the product and of CUDA: what it computes, checks, gives back, and says."""

from __future__ import annotations

import gc
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Barrier, Thread
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

import gantk
import networks
from bundle_engines import make_engine
from fake_cuda import FakeCuda
from fake_tensorrt import MAGIC, FakeTensorRT, TensorLocation
from gantk.bundle import Bundle, Engine, Interface, Manifest, Profile, ShapeRange, Variant, Writer
from gantk.errors import BackendMissingError, GantkError
from gantk.runtime import driver
from gantk.runtime.backends.tensorrt import EngineRunner
from gantk.tensors import TensorSpec

X = TensorSpec("x", "float32", ("N", 2, "H", "W"))
Y = TensorSpec("y", "float32", ("N", 2, "H", "W"), (-10.0, 10.0))
Z = TensorSpec("z", "uint8", ("N", 2, "H", "W"), (0.0, 255.0))
SMALL: Profile = {"x": ShapeRange((1, 2, 4, 4), (1, 2, 8, 8), (4, 2, 16, 16))}
LARGE: Profile = {"x": ShapeRange((1, 2, 17, 17), (1, 2, 32, 32), (1, 2, 64, 64))}


def picture(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 5, shape).astype(np.float32)


@dataclass
class Lab:
    """A bundle with an engine, and the fakes that it runs on."""

    root: Path
    trt: FakeTensorRT
    cuda: FakeCuda

    def open(self, **options: Any) -> EngineRunner:
        runner = gantk.open(self.root, **{"backend": "tensorrt-rtx", **options})
        assert isinstance(runner, EngineRunner)
        return runner

    def forget(self) -> None:
        self.trt.calls.clear()
        self.cuda.calls.clear()


def write_bundle(root: Path, *engines: Callable[[Variant], Engine], wrong: float = 0.0) -> Bundle:
    """A bundle whose probe says 2 x + 1, and `wrong` more."""
    x = picture(2, 2, 6, 5, seed=9)
    probe = {
        "input.x": x,
        "output.y": 2 * x + 1 + np.float32(wrong),
        "output.z": (2 * x + 1).astype(np.uint8),
    }
    with Writer(root, force=True) as writer:
        variant = Variant(writer.add("model.fp32.onnx", networks.generator()), "fp32", "plain", 20)
        made = []
        for engine in engines:
            entry = engine(variant)
            made.append(replace(entry, file=writer.add(entry.file.path, MAGIC + entry.label.encode())))
        manifest = Manifest(
            "test", "tiny", {}, (X,), (Y, Z), (variant,), writer.add("probe.safetensors", save(probe))
        )
        return writer.commit(replace(manifest, engines=tuple(made)))


def engine_of(**changes: Any) -> Callable[[Variant], Engine]:
    facts = {"profiles": (SMALL, LARGE), "parity": (), "plugins": (), "options": (), "rewrites": ()}
    return lambda variant: make_engine(variant, {}, **{**facts, **changes})


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    cuda = FakeCuda()
    trt = FakeTensorRT(cuda, (X,), (Y, Z), (SMALL, LARGE))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("gantk.runtime.backends.tensorrt.load", lambda product: trt)
    monkeypatch.setattr("gantk.runtime.products.installed", lambda *_: {"tensorrt-rtx": "1.7.1.116"})
    monkeypatch.setattr("gantk.runtime.cuda.bindings", lambda: cuda)
    monkeypatch.setattr(
        driver, "probe", lambda: driver.Driver(True, "13.0", ("RTX 4090",), targets=("sm_89",))
    )
    write_bundle(tmp_path / "x.gantk", engine_of())
    return Lab(tmp_path / "x.gantk", trt, cuda)


def check(runner: EngineRunner, x: np.ndarray) -> None:
    outputs = runner.run({"x": x})
    np.testing.assert_allclose(outputs["y"], 2 * x + 1, rtol=1e-6)
    np.testing.assert_array_equal(outputs["z"], (2 * x.astype(np.float64) + 1).astype(np.uint8))


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
        assert runner.memory_bytes["activations"] == 2 * 3 * 2**20
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
        assert (
            name in str(caught.value)
            or "MiB of GPU memory" in str(caught.value)
            or "as told" in str(caught.value)
        )
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


def test_out_of_memory_says_how_much(lab: Lab) -> None:
    with lab.open() as runner:
        lab.cuda.fail["cudaMalloc"] = lab.cuda.calls.count("cudaMalloc") + 1
        with pytest.raises(
            GantkError, match=r"'x' of .* wants 0\.0 MiB of GPU memory .*; 1024\.0 of 1024\.0 MiB are free"
        ):
            runner.run({"x": picture(1, 2, 64, 64)})
    lab.trt.fail["create_execution_context"] = lab.trt.calls.count("create_execution_context") + 1
    with pytest.raises(GantkError, match=r"a context of .* wants 3\.0 MiB of GPU memory .*as told"):
        lab.open()


# Whether it is right


def test_the_first_opening_runs_the_probe_and_remembers(lab: Lab, tmp_path: Path) -> None:
    runner = lab.open()
    assert runner.verified
    runner.close()
    (path,) = (tmp_path / "cache/gantk/verdicts").iterdir()
    assert json.loads(path.read_text()) == {"passed": True, "reason": ""}
    lab.forget()
    with lab.open() as runner:
        assert runner.verified
        assert "execute_async_v3" not in lab.trt.calls
    path.write_text("{")  # A verdict that cannot be read is found again.
    with lab.open() as runner:
        assert "execute_async_v3" in lab.trt.calls


def test_a_wrong_engine_is_refused_now_and_later(lab: Lab) -> None:
    lab.trt.wrong = 0.5
    for _ in range(2):
        with pytest.raises(
            GantkError, match=r"computes wrong on sm_89: y: .* dB PSNR, at least 80 dB wanted"
        ):
            lab.open()
    assert lab.trt.calls.count("execute_async_v3") == 1
    gc.collect()
    assert (lab.cuda.leaks, lab.trt.alive) == ({}, 0)


def test_a_verified_engine_is_not_run_first(lab: Lab) -> None:
    write_bundle(lab.root, engine_of(parity=(networks.parity("tensorrt-rtx"),)), wrong=5.0)
    with lab.open() as runner:
        assert runner.verified
        assert "execute_async_v3" not in lab.trt.calls


def test_a_probe_that_no_profile_serves_leaves_it_unverified(lab: Lab) -> None:
    one = {"x": ShapeRange((1, 2, 50, 50), (1, 2, 50, 50), (1, 2, 50, 50))}
    lab.trt.profiles = (one,)
    write_bundle(lab.root, engine_of(profiles=(one,)))
    with lab.open() as runner:
        assert not runner.verified


# Which engine, and what is said where there is none


@pytest.mark.parametrize(
    ("engines", "options", "text", "hint"),
    [
        ((), {}, "has no tensorrt-rtx engine", "gantk export .* --to tensorrt-rtx"),
        (
            (engine_of(targets=("sm_86", "sm_120")),), {},
            "no tensorrt-rtx fp32 engine for sm_89; it has fp32 .plain. for sm_86, sm_120", "--to",
        ),
        (
            (engine_of(version="1.6.0"),), {},
            "built with 1.6.0; 1.7.1.116 is installed", "pip install tensorrt-rtx==1.6.0",
        ),
        ((engine_of(),), {"precision": "fp16"}, "has no tensorrt-rtx fp16; it has fp32", "--to"),
        ((engine_of(),), {"form": "adam"}, "has no tensorrt-rtx plain adam; it has fp32", "--to"),
        ((engine_of(backend="tensorrt", version="11.4.0"),), {}, "has no tensorrt-rtx engine", "--to"),
        ((engine_of(plugins=("libno.so",)),), {}, "wants the plugin library libno.so", "LD_LIBRARY_PATH"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_before_the_library_sees_it(
    lab: Lab, engines: tuple[Callable[[Variant], Engine], ...], options: dict[str, Any], text: str, hint: str
) -> None:
    write_bundle(lab.root, *engines)
    with pytest.raises(GantkError, match=text) as caught:
        lab.open(**options)
    assert re.search(hint, caught.value.hint or "")
    assert lab.trt.calls == []


def test_options_widen_what_fits(lab: Lab) -> None:
    write_bundle(
        lab.root,
        engine_of(targets=("sm_86",), version="1.2.0", options=("hardware-compatible", "version-compatible")),
    )
    with lab.open() as runner:
        check(runner, picture(1, 2, 4, 4))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data[:-1] + b"?", lambda data: b""])
def test_a_damaged_engine_is_not_given_to_the_library(lab: Lab, change: Callable[[bytes], bytes]) -> None:
    (path,) = (lab.root / "engines").iterdir()
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(GantkError, match="the manifest says"):
        lab.open()
    assert lab.trt.calls == []


def test_a_file_that_is_no_engine(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fake_tensorrt.MAGIC", b"another product's engine")
    with pytest.raises(GantkError, match="cannot be loaded: .*magicTagRead == kMAGIC_TAG"):
        lab.open()


def test_a_manifest_that_belongs_to_another_engine(lab: Lab) -> None:
    lab.trt.outputs = (Y,)
    with pytest.raises(GantkError, match="has outputs y: float32; declared are y: float32, z: uint8"):
        lab.open()
    lab.trt.outputs, lab.trt.profiles = (Y, Z), (SMALL,)
    with pytest.raises(GantkError, match="has 1 profiles; declared are 2"):
        lab.open()
    lab.trt.profiles, lab.trt.location = (SMALL, LARGE), TensorLocation.HOST
    with pytest.raises(GantkError, match="'x' of .* lies in host memory"):
        lab.open()


def test_an_output_whose_size_depends_on_the_data(lab: Lab) -> None:
    lab.trt.data_dependent = True
    with pytest.raises(GantkError, match="the size of output 'y' of .* depends on the data"):
        lab.open()


def test_auto_takes_an_engine_that_fits(lab: Lab) -> None:
    with gantk.open(lab.root) as runner:
        assert runner.backend == "tensorrt-rtx"


def test_auto_passes_over_one_that_does_not(lab: Lab) -> None:
    latent, made = networks.specs()
    bundle = networks.bundle(lab.root.with_name("real.gantk"))
    engine = make_engine(bundle.manifest.variants[0], {"latent": (1, 4)}, targets=("sm_75",), plugins=())
    with Writer(bundle.root, force=True) as writer:
        engine = replace(engine, file=writer.add(engine.file.path, MAGIC))
        writer.commit(replace(bundle.manifest, engines=(engine,)))
    assert Interface((latent,), (made,)) == bundle.manifest.interface(bundle.manifest.variants[0])
    with gantk.open(bundle.root) as runner:
        assert runner.backend == "onnxruntime"
        assert "no tensorrt-rtx fp32 engine for sm_89" in runner.passed_over["tensorrt-rtx"]


def test_without_a_driver_it_fails_in_words(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        driver, "probe", lambda: driver.Driver(False, reason="no NVIDIA driver: none is there")
    )
    with pytest.raises(
        BackendMissingError, match="tensorrt-rtx does not work here: no NVIDIA driver"
    ) as caught:
        lab.open()
    assert caught.value.exit_code == 3
    assert (lab.trt.calls, lab.cuda.calls) == ([], [])


def test_a_lone_onnx_file_is_no_engine(lab: Lab, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(networks.generator())
    with pytest.raises(GantkError, match="runs the engines of a bundle") as caught:
        gantk.open(tmp_path / "x.onnx", backend="tensorrt-rtx")
    assert "--to tensorrt-rtx" in (caught.value.hint or "")


# Memory of the caller's


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

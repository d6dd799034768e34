# SPDX-License-Identifier: Apache-2.0
"""The C++ backends on a GPU, before stand-ins for their libraries and for CUDA's driver.

Streams of the stand-in do nothing until they are waited for, and everything tells what it is asked to do.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from onnx import helper, numpy_helper

import networks
from bundle_engines import make_engine
from cpp_library import SOURCE, build_cpp, onnxruntime_library, races_of_ours
from gantk.bench.process import Worker
from gantk.bundle import Bundle, FileRef, ShapeRange
from native_build import newer_onnxruntime_root, onnxruntime_root, with_clang

CUDA_HEADERS = [
    Path(root) / "include/cuda.h"
    for root in (os.environ.get("CUDA_PATH", "/usr/local/cuda"), "/usr/local/cuda", "/usr")
]
PRODUCTS = {"tensorrt": ("enterprise", "11.1.0.0"), "tensorrt-rtx": ("rtx", "1.7.0.0")}
LIBRARY_VARIABLES = {"tensorrt": "GANTK_TENSORRT", "tensorrt-rtx": "GANTK_TENSORRT_RTX"}
RUNS = {"onnxruntime": "RunWithBinding", "tensorrt": "enqueueV3", "tensorrt-rtx": "enqueueV3"}


class Trial(NamedTuple):
    """The program, and what of the machine it is to see."""

    backend: str
    folder: Path
    bundle: Path

    @property
    def run_name(self) -> str:
        """What the library calls a run."""
        return RUNS[self.backend]

    @property
    def environment(self) -> dict[str, str]:
        """In which the stand-ins are found."""
        name, stand_ins = self.backend.replace("-", "_"), self.folder / "tests/gpu"
        library = "onnxruntime" if self.backend == "onnxruntime" else "tensorrt"
        found = {
            "XDG_CACHE_HOME": str(self.bundle.parent / "cache"),
            "LD_LIBRARY_PATH": str(stand_ins),
            f"GANTK_{name.upper()}": str(stand_ins / f"libgantk_stand_in_{library}.so"),
            "STAND_IN_ONNXRUNTIME": str(onnxruntime_library()),
        }
        if self.backend in PRODUCTS:
            found["GANTK_BACKENDS"] = str(self.folder / f"src/tensorrt/libgantk_{name}.so")
        return found

    def run(self, fault: str = "", **environment: str) -> list[str]:
        """What is said, line by line, while everything works but for one function."""
        return self.said_by("gpu_trial", STAND_IN_FAULT=fault, **environment)

    def run_threads(self, device: str, what: str, **environment: str) -> list[str]:
        """The same of a program in which four threads do something at once."""
        return self.said_by("gpu_threads", device, what, **environment)

    def said_by(self, program: str, *words: str, **environment: str) -> list[str]:
        command = [self.folder / f"tests/gpu/gantk_{program}", self.bundle, self.backend, *words]
        everything = {**os.environ, **self.environment, **environment}
        everything.pop("GANTK_ONNXRUNTIME_OPS", None)  # A program may name operators itself.
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=everything)
        assert (done.returncode, done.stderr) == (0, "")
        return done.stdout.splitlines()


def summing_network() -> bytes:
    """latent [N, 4] -> picture [N, 3, 8, 8]: each pixel its index and the sum of the latent vector."""
    places = np.arange(3 * networks.SIDE**2, dtype=np.float32).reshape(1, 3, networks.SIDE, networks.SIDE)
    weights = [
        numpy_helper.from_array(places, "places"),
        numpy_helper.from_array(np.array([1], np.int64), "across"),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    nodes = [
        helper.make_node("ReduceSum", ["latent", "across"], ["sum"]),
        helper.make_node("Unsqueeze", ["sum", "axes"], ["pixel"]),
        helper.make_node("Add", ["places", "pixel"], ["picture"]),
    ]
    ends = [[helper.make_tensor_value_info(spec.name, 1, spec.shape)] for spec in networks.specs()]
    return networks.model_bytes(helper.make_graph(nodes, "sums", *ends, weights))


def latents(first: int, last: int) -> ShapeRange:
    """Some numbers of samples."""
    return ShapeRange((first, networks.LATENT), (first, networks.LATENT), (last, networks.LATENT))


def add_engine(bundle: Bundle, product: str, data: bytes = b"engine", **changes: Any) -> None:
    """An engine that needs no verdict."""
    (bundle.root / "engines").mkdir(exist_ok=True)
    (bundle.root / "engines/a.engine").write_bytes(data)
    facts: dict[str, Any] = {
        "file": FileRef.of("engines/a.engine", data),
        "backend": product,
        "version": PRODUCTS[product][1],
        "profiles": ({"latent": latents(1, 4)},),
        "options": (),
        "plugins": (),
        "parity": (),
    }
    engine = make_engine(bundle.manifest.variants[0], {}, **{**facts, **changes})
    manifest = replace(bundle.manifest, engines=(engine,), probe=None)
    (bundle.root / "manifest.json").write_bytes(manifest.dumps())


def make_trial(backend: str, tmp_path: Path, *, checked: str) -> Trial:
    """A bundle with what a backend runs, and the programs that run it, built with a sanitizer."""
    if not any(path.is_file() for path in CUDA_HEADERS):
        pytest.skip("cuda.h is missing: install the CUDA toolkit")
    product = backend if backend in PRODUCTS else "tensorrt"  # One build does for both.
    options = (
        f"-DTENSORRT_ROOT={SOURCE}/tests/tensorrt/{PRODUCTS[product][0]}",
        f"-DGANTK_SANITIZE={checked}",
    )
    folder = build_cpp(
        "gantk_gpu_trial",
        "gantk_gpu_threads",
        "gantk-bench-worker",
        "gantk-run",
        options=("--preset", "sanitize", *options, *with_clang()),
        root=newer_onnxruntime_root(),
    )
    bundle = networks.bundle(tmp_path / "x.gantk", {("fp32", "plain"): summing_network()})
    if backend in PRODUCTS:
        add_engine(bundle, backend)
    return Trial(backend, folder, bundle.root)


@pytest.fixture(params=RUNS)
def trial(request: pytest.FixtureRequest, tmp_path: Path) -> Trial:
    return make_trial(request.param, tmp_path, checked="address")


def sections(said: list[str]) -> dict[str, list[str]]:
    """What is asked of the driver and the library, and what comes of it, by what the program said that it does.

    Without the order of streams.
    """
    found: dict[str, list[str]] = {}
    for line in said:
        if line.startswith(("bind", "bound run", "run")):
            found[line] = []
        elif found and line.strip() not in ("cuEventRecord", "cuStreamWaitEvent"):
            found[list(found)[-1]].append(line.strip())
    return found


def assert_all_is_right(said: list[str]) -> None:
    """But for the one array that is looked at before it is waited for; and nothing is left."""
    assert said.count("wrong") == 1
    assert said.count("right") == 20
    assert said[-1] == "0 things were not given back"


def test_a_bound_run_is_one_graph(trial: Trial) -> None:
    said = trial.run()
    found = sections(said)
    assert found["bind"][-8:] == [
        "cuStreamSynchronize",  # After a run that is as any other.
        "cuStreamBeginCapture",
        "cuMemcpyHtoDAsync",
        f"{trial.run_name}, captured",
        "cuMemcpyDtoHAsync",
        "cuStreamEndCapture",
        "cuGraphInstantiate",
        "right",
    ]
    for name in ("bound run", "bound run without its runner"):
        assert found[name][:3] == ["cuGraphLaunch", "cuStreamSynchronize", "right"]
    # What stays on the GPU is queued on the caller's stream.
    assert found["bound run on it"][:4] == ["cuGraphLaunch", "wrong", "cuStreamSynchronize", "right"]
    bound = found["bind to arrays of the runner's"]
    assert bound[bound.index("cuGraphInstantiate") :][:5] == [
        "cuGraphInstantiate",
        "cuGraphLaunch",
        "cuStreamSynchronize",
        "on the GPU",
        "right",
    ]
    assert_all_is_right(said)


def test_the_kernels_of_a_shape_are_compiled_before_a_graph_keeps_them(trial: Trial) -> None:
    said = trial.run()
    assert ("  kernels of a shape are compiled first" in said) == (trial.backend == "tensorrt-rtx")


COMPILED = [f"  compiles for batch {batch}" for batch in (2, 3, 1, 4)]
rtx_alone = pytest.mark.parametrize("trial", ["tensorrt-rtx"], indirect=True)


def kept_kernels(trial: Trial) -> list[Path]:
    return sorted(trial.bundle.parent.glob("cache/gantk/*/*"))


@rtx_alone
def test_kernels_are_compiled_once_for_all_processes(trial: Trial) -> None:
    """The file is the one that Python's runner has."""
    said = trial.run()
    assert [line for line in said if "compiles" in line] == COMPILED
    (path,) = kept_kernels(trial)
    digest = hashlib.sha256(b"engine").hexdigest()
    assert path.parent.name == "compiled"
    assert path.name == f"{digest}-1.7.0.0-sm_89-Stand-in-TM-40.kernels"
    assert path.read_bytes() == hashlib.sha256(b"k2314!").digest() + b"k2314!"
    before = path.stat().st_mtime_ns
    said = trial.run()
    assert "compiles" not in "".join(said)
    assert "  deserialize k2314!" in said
    assert path.stat().st_mtime_ns == before
    assert_all_is_right(said)


@rtx_alone
def test_kernels_are_kept_of_a_process_that_is_killed(trial: Trial) -> None:
    command = [trial.folder / "tests/gpu/gantk_gpu_trial", trial.bundle, trial.backend]
    everything = {**os.environ, **trial.environment, "STAND_IN_FAULT": "killed in cuGraphLaunch"}
    done = subprocess.run(command, capture_output=True, check=False, env=everything)
    assert done.returncode == -signal.SIGKILL
    (path,) = kept_kernels(trial)
    assert path.read_bytes()[32:] == b"k2!"


@rtx_alone
@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "short", "folder"])
def test_kernels_that_were_damaged_are_not_given_to_the_library(trial: Trial, damage: str) -> None:
    trial.run()
    (path,) = kept_kernels(trial)
    data = path.read_bytes()
    changed = {"cut": data[:-1], "flipped": data[:-2] + b"?" + data[-1:], "empty": b"", "short": data[:20]}
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        path.write_bytes(changed[damage])
    said = trial.run()
    first = said[: said.index("bound run")]
    assert COMPILED[0] in first
    assert "deserialize" not in "".join(first)
    if damage != "folder":  # Where nothing can be written, nothing is, without a word.
        assert path.read_bytes() == data
    assert_all_is_right(said)


@rtx_alone
@pytest.mark.parametrize("fault", ["deserialize", "createRuntimeCache"])
def test_where_kernels_cannot_be_kept_they_are_compiled(trial: Trial, fault: str) -> None:
    trial.run()
    said = trial.run(fault)
    assert [line in said for line in COMPILED] == [fault == "deserialize"] * len(COMPILED)
    assert_all_is_right(said)


@pytest.mark.parametrize("trial", ["onnxruntime"], indirect=True)
def test_streams_wait_for_each_other(trial: Trial) -> None:
    """ONNX Runtime has a stream of its own, before and after which the caller's is."""
    said = [line.strip() for line in trial.run()]
    start = said.index("bound run on it") + 1
    order = ["cuEventRecord", "cuStreamWaitEvent"]
    assert said[start : start + 5] == [*order, "cuGraphLaunch", *order]


def test_a_benchmark_times_what_stays_on_the_gpu(trial: Trial, tmp_path: Path) -> None:
    latent = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.savez(tmp_path / "feeds.npz", latent=latent)
    options = {"path": str(trial.bundle), "backend": trial.backend, "device": "cuda"}
    command = [str(trial.folder / "tools/gantk-bench-worker")]
    with Worker("cpp", tmp_path, 1, trial.environment, command) as worker:
        assert worker.ask(60, do="load", options=options)["device"] == "cuda"
        worker.ask(60, do="feed", path=str(tmp_path / "feeds.npz"))
        log = next(tmp_path.glob("worker-*.log"))
        before = log.read_text().count("cuMemcpy")
        assert len(worker.ask(60, do="run", warmup_s=0, block_s=60, most=3)["ns"]) == 3
        worker.ask(60, do="output", path=str(tmp_path / "out.npz"))
        told = worker.ask(60, do="memory")["gpu_bytes"]
        assert told is None if trial.backend == "onnxruntime" else told > SAMPLE_BYTES
        said = log.read_text()
    assert said.count("cuGraphLaunch") == 5  # One to warm up, three that are timed and one for the output.
    assert said.count("cuMemcpy") == before + 1  # Of the output.
    with np.load(tmp_path / "out.npz") as found:
        np.testing.assert_array_equal(found["picture"][:, 0, 0, 1], latent.sum(1) + 1)


@pytest.mark.parametrize(
    "fault", ["cuStreamBeginCapture", "cuStreamEndCapture", "cuGraphInstantiate", "the run"]
)
def test_where_a_graph_is_refused_a_bound_run_is_as_any_other(trial: Trial, fault: str) -> None:
    said = trial.run(trial.run_name if fault == "the run" else fault)
    assert "  cuGraphLaunch" not in said
    assert trial.run_name in sections(said)["bound run"]
    assert_all_is_right(said)


@rtx_alone
def test_what_the_product_says_cannot_be_a_graph_is_not_tried(trial: Trial) -> None:
    said = trial.run("isStreamCapturable")
    assert "  cuStreamBeginCapture" not in said
    assert_all_is_right(said)


@pytest.mark.parametrize("fault", ["cuGraphLaunch", "cuMemcpyDtoHAsync"])
def test_what_the_driver_refuses_is_an_error(trial: Trial, fault: str) -> None:
    said = trial.run(fault)
    assert said[-2:] == [f"error: CUDA's {fault} failed: CUDA_ERROR_OF_THE_STAND_IN", f"  in: {fault}"]


@pytest.mark.parametrize(
    ("trial", "version", "wanted"),
    [
        ("tensorrt", "10.16", "11.1 or a later 11.x"),
        ("tensorrt", "11.0", "11.1 or a later 11.x"),
        ("tensorrt", "12.1", "11.1 or a later 11.x"),
        ("tensorrt-rtx", "1.6", "1.7 or a later 1.x"),
        ("tensorrt-rtx", "2.7", "1.7 or a later 1.x"),
    ],
    indirect=["trial"],
)
def test_a_library_of_other_functions_than_the_headers_is_not_called(
    trial: Trial, version: str, wanted: str
) -> None:
    said = trial.run(STAND_IN_VERSION=version)
    assert said[-2:] == [
        f"error: {trial.backend} does not work here: its library is of version {version}.0.0; {wanted} is wanted, as "
        "gantk was built",
        f"  hint: install {trial.backend} {wanted}; the environment variable "
        f"{LIBRARY_VARIABLES[trial.backend]} can name its library",
    ]


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_auto_goes_on_where_the_driver_is_too_old(trial: Trial, tmp_path: Path) -> None:
    new = (trial.folder / "tests/gpu/libcuda.so.1").read_bytes()
    assert b"\0cuGraphExecDestroy\0" in new
    old = new.replace(b"\0cuGraphExecDestroy\0", b"\0cuGraphExecDestroz\0")  # Nobody finds it by its name.
    (tmp_path / "libcuda.so.1").write_bytes(old)
    everything = {**os.environ, **trial.environment, "LD_LIBRARY_PATH": str(tmp_path)}
    command = [trial.folder / "tools/gantk-run", trial.bundle, "--backend"]
    auto, named = (
        subprocess.run([*command, name], capture_output=True, text=True, check=False, env=everything)
        for name in ("auto", trial.backend)
    )
    assert (auto.returncode, "by onnxruntime" in auto.stderr) == (0, True), auto.stderr
    assert (named.returncode, "it has no cuGraphExecDestroy" in named.stderr) == (3, True), named.stderr
    assert "hint: install a later NVIDIA driver" in named.stderr


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_a_library_that_is_newer_than_the_headers_does(trial: Trial) -> None:
    newer = {"tensorrt": "11.2", "tensorrt-rtx": "1.8"}[trial.backend]
    said = trial.run(STAND_IN_VERSION=newer)
    assert f"{newer}.0.0 is installed" in said[-3]  # The engine is of another release, and not of this one.


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_a_library_that_is_another_one_is_named(trial: Trial) -> None:
    other = str(onnxruntime_library())
    said = trial.run(**{LIBRARY_VARIABLES[trial.backend]: other})
    assert said[-2] == f"error: {trial.backend} does not work here: `{other}` is another library"


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
@pytest.mark.parametrize("kind", ["plugin", "own_plugin"])
def test_plugins_are_registered_by_their_library_or_by_the_runtime(trial: Trial, kind: str) -> None:
    library = f"libgantk_stand_in_{kind}.so"
    add_engine(Bundle.read(trial.bundle), trial.backend, b"engine with plugins", plugins=(library,))
    said = trial.run()
    told = [line for line in said if "loadLibrary" in line]
    path = trial.folder / "tests/gpu" / library
    assert told == ([f"  loadLibrary {path}"] * 5 if kind == "plugin" else [])  # Of each runner.
    assert_all_is_right(said)


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_an_engine_tells_which_plugin_it_lacks(trial: Trial) -> None:
    add_engine(Bundle.read(trial.bundle), trial.backend, b"engine with plugins")
    said = trial.run()
    assert said[-3].endswith("cannot be loaded: the stand-in has no such plugin")


@pytest.mark.parametrize(
    ("edition", "version", "wanted"),
    [("RTX", "1.4", "TensorRT for RTX 1.4; 1.5"), ("ENTERPRISE", "10.15", "TensorRT 10.15; 10.16")],
)
def test_headers_that_are_too_old_are_refused(
    tmp_path: Path, edition: str, version: str, wanted: str
) -> None:
    major, minor = version.split(".")
    (tmp_path / "include").mkdir()
    (tmp_path / "include/NvInferRuntime.h").touch()
    (tmp_path / "include/NvInferVersion.h").write_text(
        f"#define TRT_MAJOR_{edition} {major}\n#define TRT_MINOR_{edition} {minor}\n"
    )
    options = (f"-DTENSORRT_ROOT={tmp_path}", f"-DONNXRUNTIME_ROOT={onnxruntime_root()}")
    command = ["cmake", "-S", SOURCE, "-B", tmp_path / "build", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert f"has {wanted} or later is wanted" in " ".join(done.stderr.split())


@pytest.mark.parametrize("trial", ["onnxruntime"], indirect=True)
def test_a_provider_that_does_not_start_says_what_it_lacks(trial: Trial) -> None:
    said = "\n".join(trial.run("the provider"))
    reason = "libcublasLt.so.13: cannot open shared object file: No such file or directory"
    assert f"error: onnxruntime cannot use CUDAExecutionProvider here: {reason}\n" in said
    assert "  hint: LD_LIBRARY_PATH names the folders of the CUDA and cuDNN" in said


@pytest.mark.parametrize("trial", ["onnxruntime"], indirect=True)
@pytest.mark.parametrize("what", ["a copy", "a call"])
def test_a_graph_that_needs_what_is_gone_is_not_launched(trial: Trial, what: str) -> None:
    said = trial.run(STAND_IN_LEAVES=what)
    assert "  cuStreamEndCapture" in said
    assert "  cuGraphInstantiate" not in said
    assert_all_is_right(said)


@pytest.mark.parametrize("where", ["", "latent"], ids=["bound", "in main memory"])
def test_arrays_within_larger_ones_begin_where_the_library_can_read(trial: Trial, where: str) -> None:
    found = sections(trial.run(STAND_IN_MAIN_MEMORY=where))
    alignment = 16 if trial.backend == "onnxruntime" else 256
    for begin in (4, 16, 256):
        for to in (begin, 0):
            refused = [name for name, at in (("latent", begin), ("picture", to)) if at % alignment]
            said = found[f"run from byte {begin} to byte {to}"]
            wanted = (
                f"{refused[0]!r} does not begin at a multiple of {alignment} bytes" if refused else "fits"
            )
            assert sum(line.startswith(wanted) for line in said) == 1


@pytest.mark.parametrize("trial", ["onnxruntime"], indirect=True)
def test_what_is_read_in_main_memory_is_bound_anew_each_time(trial: Trial) -> None:
    said = trial.run(STAND_IN_MAIN_MEMORY="latent")
    assert "  cuStreamBeginCapture" not in said
    assert "RunWithBinding, waits" in sections(said)["bound run"]
    assert sections(said)["bind"][-1] == "wrong"  # It does not run before it is asked to.
    assert_all_is_right(said)


TOGETHER = {"STAND_IN_TOGETHER": "4"}
ALONE = "  others did not come"
ALL_IS_RIGHT = "0 were wrong, 0 things were not given back"

# With four threads in its runs at once; ONNX Runtime has one stream on a GPU, on which they take turns.
runs_at_once = pytest.mark.parametrize(
    ("trial", "device"),
    [("onnxruntime", "cpu"), ("tensorrt", "cuda"), ("tensorrt-rtx", "cuda")],
    indirect=["trial"],
)


@runs_at_once
def test_threads_that_share_a_runner_run_at_once(trial: Trial, device: str) -> None:
    said = trial.run_threads(device, "runs", **TOGETHER)
    assert ALONE not in said
    assert said[-1] == ALL_IS_RIGHT


@pytest.mark.parametrize("what", ["runs", "bound-runs", "queued-runs"])
def test_threads_that_share_a_runner_get_what_is_theirs(trial: Trial, what: str) -> None:
    assert trial.run_threads("cuda", what)[-1] == ALL_IS_RIGHT


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_runs_that_end_leave_their_contexts_to_others(trial: Trial) -> None:
    """Four threads have a bound run and another one each at the same time."""
    said = trial.run_threads("cuda", "bound-runs")
    assert 4 <= said.count("  createExecutionContext") <= 8


TELLS = re.compile(r"holds (\d+) \+ (\d+) \+ (\d+) bytes")
SAMPLE_BYTES = 2**20  # What each sample but the first wants, in the stand-in.


def held(said: list[str]) -> tuple[int, int, int]:
    """What a runner tells of its engine, activations and buffers."""
    engine, activations, buffers = map(int, TELLS.search("\n".join(said)).groups())  # type: ignore[union-attr]
    return engine, activations, buffers


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_a_runner_tells_the_memory_of_its_contexts(trial: Trial) -> None:
    """A bound run has one, of batch 2, and a run of batch 3 another; four threads have one each."""
    latent, picture = 4 * networks.LATENT, 4 * 3 * networks.SIDE**2
    assert held(trial.run()) == (len(b"engine"), (1 + 2) * SAMPLE_BYTES, (2 + 3) * (latent + picture))
    engine, activations, buffers = held(trial.run_threads("cuda", "runs", **TOGETHER))
    assert engine == len(b"engine")
    assert (1 + 2 + 3 + 3) * SAMPLE_BYTES <= activations <= 4 * 3 * SAMPLE_BYTES
    assert 4 * (latent + picture) <= buffers <= 4 * 4 * (latent + picture)


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_where_the_wanted_memory_is_not_told_it_is_that_of_the_largest_shapes(trial: Trial) -> None:
    said = trial.run("updateDeviceMemorySizeForShapes")
    assert held(said)[1] == 2 * 3 * SAMPLE_BYTES
    assert_all_is_right(said)


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_memory_that_a_context_refuses_is_an_error(trial: Trial) -> None:
    said = trial.run("setDeviceMemoryV2")
    assert said[-2].endswith("cannot take memory for its activations: such memory cannot be used")
    assert "  enqueueV3" not in said


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_a_context_is_told_nothing_while_a_run_of_it_is_under_way(trial: Trial) -> None:
    """The stand-in ends at that; a run of what it knows is queued without a word."""
    found = sections(trial.run())
    assert found["run on it, queued behind that"] == ["enqueueV3"]
    assert found["run on it of another shape"][0] == "cuEventSynchronize"
    assert found["run on it to other arrays"][0] == "cuEventSynchronize"
    assert found["run on it to fresh arrays"] == [
        "cuEventSynchronize",
        "enqueueV3",
        "cuStreamSynchronize",
        *["right"] * 4,
    ]


def test_what_is_queued_ends_before_what_ran_it(trial: Trial) -> None:
    """Also where the stream is gone, which the stand-in ends at when it is used."""
    said = sections(trial.run())["run on it, which is gone before the runner"]
    assert [line for line in said if line == "right"] == ["right"] * 2
    # ONNX Runtime has a stream of its own.
    assert ("cuEventSynchronize" in said) == (trial.backend != "onnxruntime")


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_shapes_are_served_by_the_profile_that_holds_them(trial: Trial) -> None:
    profiles = tuple({"latent": latents(first, last)} for first, last in ((1, 2), (3, 4)))
    add_engine(Bundle.read(trial.bundle), trial.backend, b"engine 1-2 3-4", profiles=profiles)
    said = trial.run()
    assert {"  profile 0", "  profile 1"} <= set(said)
    assert_all_is_right(said)


@pytest.mark.parametrize("trial", ["onnxruntime"], indirect=True)
def test_onnx_runtime_does_not_tell_its_memory(trial: Trial) -> None:
    assert "  does not tell what it holds" in trial.run()


@pytest.mark.parametrize(
    ("trial", "told"),
    [
        ("onnxruntime", ""),
        ("tensorrt", "GPU memory: 0.0 MiB of weights, 1.0 of activations, 0.0 of buffers\n"),
        ("tensorrt-rtx", "GPU memory: 0.0 MiB of weights, 1.0 of activations, 0.0 of buffers\n"),
    ],
    indirect=["trial"],
)
def test_the_command_tells_the_memory_of_an_engine(trial: Trial, told: str, tmp_path: Path) -> None:
    np.save(tmp_path / "latent.npy", networks.latents(2))
    command = [trial.folder / "tools/gantk-run", trial.bundle, "--backend", trial.backend]
    command += ["--input", f"latent={tmp_path}/latent.npy", "--output-dir", tmp_path / "out"]
    everything = {**os.environ, **trial.environment}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=everything)
    assert done.stderr.partition("\n")[2] == told


@pytest.mark.parametrize("trial", ["onnxruntime"], indirect=True)
def test_no_session_is_made_while_the_first_one_enters_operators(trial: Trial) -> None:
    """Into a table of the whole process, which ONNX Runtime reads and writes without a lock."""
    said = trial.run_threads("cpu", "openings")
    assert "  sessions are made while operators are entered" not in said
    assert said[-1] == ALL_IS_RIGHT


@pytest.mark.slow
@pytest.mark.parametrize("backend", RUNS)
def test_threads_do_not_race(backend: str, tmp_path: Path) -> None:
    trial = make_trial(backend, tmp_path, checked="thread")
    trials = [("cuda", what) for what in ("runs", "bound-runs", "queued-runs")]
    if backend == "onnxruntime":
        trials += [("cpu", "runs"), ("cpu", "openings")]
    for device, what in trials:
        assert trial.run_threads(device, what, **races_of_ours(tmp_path))[-1] == ALL_IS_RIGHT

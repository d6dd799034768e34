# SPDX-License-Identifier: Apache-2.0
"""The C++ backends on a GPU, before stand-ins for their libraries and for CUDA's driver."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import networks
from cpp_gpu import RUNS, SAMPLE_BYTES, TOGETHER, Trial, assert_all_is_right, make_trial, sections
from cpp_library import races_of_ours
from gantk.bench.process import Worker


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


@pytest.mark.parametrize("fault", ["cuGraphLaunch", "cuMemcpyDtoHAsync"])
def test_what_the_driver_refuses_is_an_error(trial: Trial, fault: str) -> None:
    said = trial.run(fault)
    assert said[-2:] == [f"error: CUDA's {fault} failed: CUDA_ERROR_OF_THE_STAND_IN", f"  in: {fault}"]


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


def test_what_is_queued_ends_before_what_ran_it(trial: Trial) -> None:
    """Also where the stream is gone, which the stand-in ends at when it is used."""
    said = sections(trial.run())["run on it, which is gone before the runner"]
    assert [line for line in said if line == "right"] == ["right"] * 2
    # ONNX Runtime has a stream of its own.
    assert ("cuEventSynchronize" in said) == (trial.backend != "onnxruntime")


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

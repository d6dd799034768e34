# SPDX-License-Identifier: Apache-2.0
"""The C++ backend of both TensorRT products, before stand-ins: libraries, plugins, kernels, contexts and memory."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
from pathlib import Path

import pytest

import networks
from cpp_gpu import (
    LIBRARY_VARIABLES,
    PRODUCTS,
    SAMPLE_BYTES,
    TOGETHER,
    Trial,
    add_engine,
    assert_all_is_right,
    latents,
    sections,
)
from cpp_library import SOURCE, onnxruntime_library
from gantk.bundle import Bundle
from native_build import onnxruntime_root
from tampering import tamper


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
    tamper(path, damage, outside=path)
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


@rtx_alone
def test_what_the_product_says_cannot_be_a_graph_is_not_tried(trial: Trial) -> None:
    said = trial.run("isStreamCapturable")
    assert "  cuStreamBeginCapture" not in said
    assert_all_is_right(said)


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


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_runs_that_end_leave_their_contexts_to_others(trial: Trial) -> None:
    """Four threads have a bound run and another one each at the same time."""
    said = trial.run_threads("cuda", "bound-runs")
    assert 4 <= said.count("  createExecutionContext") <= 8


TELLS = re.compile(r"holds (\d+) \+ (\d+) \+ (\d+) bytes")


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
    assert found["run on it to fresh arrays"] == ["enqueueV3", "cuStreamSynchronize", *["right"] * 4]


@pytest.mark.parametrize("trial", PRODUCTS, indirect=True)
def test_shapes_are_served_by_the_profile_that_holds_them(trial: Trial) -> None:
    profiles = tuple({"latent": latents(first, last)} for first, last in ((1, 2), (3, 4)))
    add_engine(Bundle.read(trial.bundle), trial.backend, b"engine 1-2 3-4", profiles=profiles)
    said = trial.run()
    assert {"  profile 0", "  profile 1"} <= set(said)
    assert_all_is_right(said)

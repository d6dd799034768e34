# SPDX-License-Identifier: Apache-2.0
"""The unit tests in C++ under sanitizers; threads, fuzzing and endurance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import networks
from cpp_library import SOURCE, build_cpp, races_of_ours
from native_build import CLANG, onnxruntime_library, with_clang

# What can be fuzzed, and how many inputs take a second or two under sanitizers.
READERS = {"manifest": 1000, "npy": 10000, "probe": 2000}


def call(*command: str | Path, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in command],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-8000:]
    return done.stdout


@pytest.fixture(scope="session")
def checked() -> Path:
    """The folder of a build that checks addresses and arithmetic while it runs: by Clang, with fuzzers, where it is."""
    if CLANG is None:
        return build_cpp("gantk_unit_tests", options=("--preset", "sanitize"))
    fuzzers = (f"gantk_fuzz_{reader}" for reader in READERS)
    return build_cpp("gantk_unit_tests", *fuzzers, options=("--preset", "fuzz", *with_clang()))


def test_unit_with_addresses_and_arithmetic_checked(checked: Path) -> None:
    assert "[  PASSED  ]" in call(checked / "tests/gantk_unit_tests", UBSAN_OPTIONS="print_stacktrace=1")


@pytest.mark.skipif(CLANG is None or shutil.which("g++") is None, reason="wants Clang beside GCC")
def test_gcc_finds_nothing_to_warn_of() -> None:
    """What others run here Clang has compiled; most people's compiler reads the library too."""
    compiler = ("-DCMAKE_CXX_COMPILER=g++", "-DCMAKE_CXX_FLAGS_RELEASE=-fsyntax-only -Werror")
    build_cpp("gantk_objects", options=("--preset", "library", *compiler))


def fuzz(checked: Path, reader: str, folder: Path, *limit: str) -> None:
    """Feed a reader with what libFuzzer makes of its corpus, which is left as it is."""
    if CLANG is None:
        pytest.skip("clang++ is missing, which alone has libFuzzer: apt install clang libclang-rt-dev")
    corpus = SOURCE / "tests/fuzz/corpus" / reader
    assert len(list(corpus.iterdir())) > 2
    (folder / "found").mkdir()
    # The peak that libFuzzer would limit is this process's, which a child inherits: single allocations are.
    memory = ("-rss_limit_mb=0", "-malloc_limit_mb=64")
    words = (
        *limit,
        *memory,
        "-seed=1",
        "-max_len=8192",
        f"-artifact_prefix={folder}/",
        folder / "found",
        corpus,
    )
    call(checked / f"tests/gantk_fuzz_{reader}", *words)


@pytest.mark.parametrize("reader", READERS)
def test_a_brief_fuzzing_finds_nothing(checked: Path, reader: str, tmp_path: Path) -> None:
    # To choose by entropy what is changed next takes longer than all readings of so few inputs.
    fuzz(checked, reader, tmp_path, f"-runs={READERS[reader]}", "-entropic=0")


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_a_minute_of_fuzzing_finds_nothing(checked: Path, reader: str, tmp_path: Path) -> None:
    fuzz(checked, reader, tmp_path, "-max_total_time=60")


@pytest.mark.parametrize("how", ["shared", "own"])
def test_eight_threads(built: Path, tmp_path: Path, how: str) -> None:
    bundle = networks.bundle(tmp_path / "x.gantk").root
    said = json.loads(call(built / "tests/gantk_soak", bundle, "800", "8", how))
    assert (said["runs"], said["wrong"]) == (800, 0)


def test_threads_open_the_first_runners_with_operators_at_once(built: Path, tmp_path: Path) -> None:
    """ONNX Runtime enters their domain into a table of the whole process, without a lock."""
    bundle = networks.bundle(tmp_path / "x.gantk").root
    for _ in range(6):
        program, operators = built / "tests/gantk_soak", str(onnxruntime_library())
        said = json.loads(call(program, bundle, "8", "8", "own", GANTK_ONNXRUNTIME_OPS=operators))
        assert said["wrong"] == 0


def test_a_run_allocates_what_onnx_runtime_does_and_no_more(built: Path, tmp_path: Path) -> None:
    bundle = networks.bundle(tmp_path / "x.gantk").root
    said = json.loads(call(built / "tests/gantk_overhead", "calls", bundle, "20", "2", "4"))
    assert said["gantk_allocations"] == said["by_hand_allocations"] > said["bound_allocations"] > 0


@pytest.mark.slow
def test_threads_do_not_race(tmp_path: Path) -> None:
    options = ("--preset", "threads")
    folder = build_cpp("gantk_unit_tests", "gantk_soak", options=options)
    assert "[  PASSED  ]" in call(folder / "tests/gantk_unit_tests")
    bundle, ours = networks.bundle(tmp_path / "x.gantk").root, races_of_ours(tmp_path)
    for how in ("shared", "own"):
        said = json.loads(call(folder / "tests/gantk_soak", bundle, "4000", "8", how, **ours))
        assert said["wrong"] == 0


@pytest.mark.slow
def test_a_hundred_thousand_runs_keep_their_memory(built: Path, tmp_path: Path) -> None:
    bundle = networks.bundle(tmp_path / "x.gantk").root
    said = json.loads(call(built / "tests/gantk_soak", bundle, "100000", "2", "shared"))
    assert said["wrong"] == 0
    assert said["grown_bytes"] < 2**20

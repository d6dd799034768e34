# SPDX-License-Identifier: Apache-2.0
"""The unit tests in C++, plain and under sanitizers; threads, fuzzing and endurance."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

import networks
from cpp_library import SOURCE, build_cpp

CLANG = next(
    (name for name in ("clang++", "clang++-14", "clang++-15", "clang++-16") if shutil.which(name)), None
)
# ONNX Runtime's threads are not instrumented: what they do inside it cannot be judged.
SUPPRESSIONS = "called_from_lib:libonnxruntime.so\nrace:libonnxruntime.so\n"


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


@pytest.mark.parametrize("program", ["gantk_unit_tests", "gantk_pictures_tests"])
def test_unit(built: Path, program: str) -> None:
    assert "[  PASSED  ]" in call(built / "tests" / program)


@pytest.mark.parametrize("how", ["shared", "own"])
def test_eight_threads(built: Path, tmp_path: Path, how: str) -> None:
    bundle = networks.bundle(tmp_path / "x.gantk").root
    said = json.loads(call(built / "tests/gantk_soak", bundle, "800", "8", how))
    assert (said["runs"], said["wrong"]) == (800, 0)


def test_a_run_allocates_what_onnx_runtime_does_and_no_more(built: Path, tmp_path: Path) -> None:
    bundle = networks.bundle(tmp_path / "x.gantk").root
    said = json.loads(call(built / "tests/gantk_overhead", "calls", bundle, "20", "2", "4"))
    assert said["gantk_allocations"] == said["by_hand_allocations"] > 0


def test_unit_with_addresses_and_arithmetic_checked() -> None:
    options = ("-DGANTK_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=Debug")
    program = build_cpp("gantk_unit_tests", options=options) / "tests/gantk_unit_tests"
    assert "[  PASSED  ]" in call(program, UBSAN_OPTIONS="print_stacktrace=1")


@pytest.mark.slow
def test_threads_do_not_race(tmp_path: Path) -> None:
    options = ("-DGANTK_SANITIZE=thread", "-DCMAKE_BUILD_TYPE=Debug")
    folder = build_cpp("gantk_unit_tests", "gantk_soak", options=options)
    assert "[  PASSED  ]" in call(folder / "tests/gantk_unit_tests")
    (tmp_path / "suppressions").write_text(SUPPRESSIONS)
    bundle = networks.bundle(tmp_path / "x.gantk").root
    checked = f"suppressions={tmp_path / 'suppressions'} ignore_noninstrumented_modules=1"
    for how in ("shared", "own"):
        said = json.loads(call(folder / "tests/gantk_soak", bundle, "4000", "8", how, TSAN_OPTIONS=checked))
        assert said["wrong"] == 0


@pytest.mark.slow
def test_a_hundred_thousand_runs_keep_their_memory(built: Path, tmp_path: Path) -> None:
    bundle = networks.bundle(tmp_path / "x.gantk").root
    said = json.loads(call(built / "tests/gantk_soak", bundle, "100000", "2", "shared"))
    assert said["wrong"] == 0
    assert said["grown_bytes"] < 2**20


@pytest.mark.slow
def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    if CLANG is None:
        pytest.skip("clang++ is missing, which alone has libFuzzer: apt install clang libclang-rt-dev")
    options = (
        "-DGANTK_FUZZ=ON",
        "-DGANTK_SANITIZE=address,undefined,fuzzer-no-link",
        "-DCMAKE_BUILD_TYPE=Debug",
        f"-DCMAKE_CXX_COMPILER={CLANG}",
        f"-DCMAKE_C_COMPILER={CLANG.replace('++', '')}",
    )
    program = build_cpp("gantk_fuzz_manifest", options=options) / "tests/gantk_fuzz_manifest"
    (tmp_path / "found").mkdir()
    corpus = SOURCE / "tests/fuzz/corpus"
    assert len(list(corpus.iterdir())) > 5
    call(program, "-max_total_time=30", f"-artifact_prefix={tmp_path}/", tmp_path / "found", corpus)

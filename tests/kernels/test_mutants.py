# SPDX-License-Identifier: Apache-2.0
"""Mutants of the kernels: how they are made, that the campaign tells them apart, and what it has found so far."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mutants
import numpy as np
import pytest
from interpreted import Memory, run
from mutant_cases import BORDERS
from mutation import closure, mutants_of

from gantk.kernels.launch import Launch

HERE = Path(__file__).parent
SOURCE = """// if (a < b) && 3
#define TWO 2
__device__ int f(const int* p, int n) {
    int sum = 0;
    for (int i = 0; i < n; i += 4) sum += -p[i * 3];
    if (n == 7 && !sum) __syncthreads();
    asm volatile("cp.async.wait_all;" ::: "memory");
    return min(sum, n) * (true ? 0x1F : 2);
}
template <int A> struct S {};
"""
EXPECTED = {
    ("0", "1"), ("<", "<="), ("4", "5"), ("4", "3"), ("+=", "-="), ("-", ""), ("*", "+"), ("3", "4"), ("3", "2"),
    ("n == 7 && !sum", "true"), ("n == 7 && !sum", "false"), ("==", "!="), ("7", "8"), ("7", "6"), ("&&", "||"),
    ("__syncthreads();", ";"), ('asm volatile("cp.async.wait_all;" ::: "memory");', ";"), ("min", "max"),
    ("true", "false"), ("0x1F", "0x0F"), ("2", "3"), ("2", "1"),
}  # fmt: skip


def test_mutants_are_all_that_the_rules_say_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "f.cuh"
    file.write_text(SOURCE)
    found = mutants_of(file)
    assert {(m.before, m.after) for m in found} == EXPECTED
    assert len({m.name for m in found}) == len(found)
    changed = {m.apply(SOURCE) for m in found}
    assert len(changed) == len(found)
    assert SOURCE not in changed


def test_names_of_mutants_stay_when_lines_move(tmp_path: Path) -> None:
    first, second = tmp_path / "f.cuh", tmp_path / "g" / "f.cuh"
    second.parent.mkdir()
    first.write_text(SOURCE)
    second.write_text("\n// More.\n" + SOURCE)
    assert [m.name for m in mutants_of(first)] == [m.name for m in mutants_of(second)]


def test_a_unit_is_made_of_what_it_includes() -> None:
    folders = (mutants.interpreted.KERNELS / "cuda", mutants.interpreted.KERNELS / "include")
    names = [file.name for file in closure(folders[0] / "variation.cu", folders)]
    assert names[0] == "variation.cu"
    assert {"variation.cuh", "variation_sum.cuh", "variation_parameters.h"} <= set(names)


TINY = {
    "tiny.cuh": """struct Parameters { const int* from; int* to; long long count; };
constexpr int kWarps = 2;
__device__ __forceinline__ int turned(int value) {
    __shared__ int box[64];
    box[threadIdx.x] = value;
    __syncthreads();
    return box[63 - threadIdx.x];
}
inline __device__ int unused(int value) { return value * 5; }
""",
    "tiny.cu": """#include "tiny.cuh"
extern "C" __global__ void tiny(const __grid_constant__ Parameters p) {
    const int i = blockIdx.x * 64 + threadIdx.x;
    const int value = turned(i < p.count ? p.from[i] : 0);
    int rest = i;
    while (rest > 0) rest -= 64;
    if (i < p.count) p.to[i] = value + 3 + rest / 1000;
}
extern "C" __global__ void idle(const __grid_constant__ Parameters p) { p.to[0] = 8; }
""",
}


class Parameters(ctypes.Structure):
    _fields_ = (("source", ctypes.c_int64), ("to", ctypes.c_int64), ("count", ctypes.c_int64))


def run_tiny() -> None:
    memory = Memory()
    given = np.arange(100, dtype=np.int32)
    filled = Parameters(memory.put(given), memory.empty(100, np.int32), 100)
    run([Launch("tiny", "tiny", (2, 1, 1), (64, 1, 1), 0, filled)], memory, "sm_80")
    padded = np.pad(given, (0, 28)).reshape(2, 64)[:, ::-1].reshape(-1)[:100]
    np.testing.assert_array_equal(memory.get(filled.to), padded + 3)


VERDICTS = [
    ("tiny.cuh", "__syncthreads();", ";", "fault"),
    ("tiny.cuh", "63", "62", "fault"),
    ("tiny.cuh", "63", "64", "fault"),
    ("tiny.cuh", "5", "6", "same"),
    ("tiny.cuh", "2", "3", "same"),
    ("tiny.cu", "3", "4", "value"),
    ("tiny.cu", "<", "<=", "fault"),
    ("tiny.cu", "-=", "+=", "endless"),
    ("tiny.cu", "1000", "1001", "survived"),
    ("tiny.cu", "8", "9", "unreached"),
]


def test_the_campaign_tells_verdicts_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "include").mkdir()
    (tmp_path / "cuda").mkdir()
    for name, text in TINY.items():
        (tmp_path / "cuda" / name).write_text(text)
    monkeypatch.setattr(mutants.interpreted, "BUDGET", 20_000)
    with mutants.interpreted.sources(tmp_path):
        unit = mutants.Unit("tiny", [mutants.Case("tiny", run_tiny)])
        unit.measure()
        made = mutants.all_mutants([unit])
        for file, before, after, verdict in VERDICTS:
            mutant = next(m for m in made if (m.file, m.before, m.after) == (file, before, after))
            assert mutants.judge(mutant, [unit])["verdict"] == verdict, mutant


def test_most_mutants_are_killed_and_every_survivor_is_explained() -> None:
    results = json.loads(mutants.RESULTS.read_text()).values()
    killed = [each for each in results if each["verdict"] in mutants.KILLED]
    survived = [each for each in results if each["verdict"] in ("survived", "unreached")]
    assert [each for each in survived if not each.get("explanation")] == []
    assert len(killed) >= 0.9 * (len(killed) + len(survived)) > 0


@pytest.mark.parametrize(("name", "run_case"), BORDERS, ids=[name for name, _ in BORDERS])
def test_pieces_of_hopper_reach_to_their_borders(name: str, run_case: Callable[[], object]) -> None:
    run_case()


@pytest.mark.slow
def test_a_sample_of_mutants_is_killed_as_recorded(tmp_path: Path) -> None:
    """A fresh process, as the campaign itself is run; its verdicts are those in the file."""
    recorded = json.loads(mutants.RESULTS.read_text())
    script = (
        "import json, sys, mutants; found = mutants.campaign([], '', 20, 2, keep=False);"
        "json.dump(found, open(sys.argv[1], 'w'))"
    )
    path = os.pathsep.join([str(HERE), *sys.path])
    target = tmp_path / "found.json"
    subprocess.run([sys.executable, "-c", script, target], check=True, env={**os.environ, "PYTHONPATH": path})
    for name, found in json.loads(target.read_text()).items():
        old = recorded.get(name)
        if old is not None and old["source"] == found["source"]:
            assert (old["verdict"] in mutants.KILLED) == (found["verdict"] in mutants.KILLED), (
                name,
                old,
                found,
            )
        else:
            assert found["verdict"] not in ("survived", "unreached"), (name, found)

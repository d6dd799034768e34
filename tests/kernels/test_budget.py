# SPDX-License-Identifier: Apache-2.0
"""Every kernel on every architecture: registers, spills, shared memory and the instructions that make it fast."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import budget
import pytest
from instructions import NEVER, RULES, before_waiting, faults

pytest.importorskip("cuda.bindings.nvrtc", reason="no NVRTC: pip install 'gantk[kernels]'")
if budget.tool() is None:
    pytest.skip("no cuobjdump: pip install nvidia-cuda-cuobjdump", allow_module_level=True)


def quick(unit: str) -> str:
    """The architecture whose code is looked at in every run."""
    return "sm_90a" if unit.endswith("sm90") else "sm_80"


COMPILED = pytest.mark.parametrize(
    ("unit", "arch"),
    [
        pytest.param(unit, arch, marks=() if arch == quick(unit) else pytest.mark.slow)
        for unit in budget.units()
        for arch in budget.ARCHITECTURES
    ],
)


@COMPILED
def test_resources_are_those_of_the_budget(unit: str, arch: str, request: pytest.FixtureRequest) -> None:
    """With another NVRTC registers may differ a little; with that of the budget not at all."""
    held = budget.read()
    if recorded(request) and budget.is_judged(unit, held):
        return
    found = budget.facts(unit, arch)
    spilled = {kernel: each["spill_bytes"] for kernel, each in found.items() if each["spill_bytes"]}
    assert spilled == {}, "kernels spill registers"
    if held["nvrtc"] != budget.nvrtc_version():
        for kernel, each in found.items():
            assert each["registers"] <= 1.1 * held["units"][unit][kernel][arch][0] + 2, kernel
        return
    now = {kernel: {arch: [each["registers"], each["shared_bytes"]]} for kernel, each in found.items()}
    only = {"units": {unit: held["units"].get(unit, {})}}
    lines = budget.differences({unit: now}, only, [arch])
    assert lines == [], "\n".join([*lines, "if that is meant: python tests/kernels/budget.py --write"])


@COMPILED
def test_kernels_use_the_instructions_that_they_are_written_for(
    unit: str, arch: str, request: pytest.FixtureRequest
) -> None:
    if recorded(request) and budget.is_judged(unit, budget.read()):
        return
    assert [
        fault
        for kernel, each in budget.facts(unit, arch).items()
        for fault in faults(kernel, arch, each["opcodes"])
    ] == []


def recorded(request: pytest.FixtureRequest) -> bool:
    """Whether the record of the last judgement will do: compiling is for what has changed, and for the slow set."""
    return not any(item.get_closest_marker("slow") for item in request.session.items)


@pytest.mark.parametrize("changed", ["source", "number", "rule", "compiler", "disassembler"])
def test_a_record_is_of_what_decides_the_outcome(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of it changes, a unit is compiled again."""
    held = budget.read()
    kept, held["judged"] = held["judged"]["variation"], {"variation": budget.judgement("variation", held)}
    if held["nvrtc"] == budget.nvrtc_version():
        assert kept == held["judged"]["variation"], "python tests/kernels/budget.py --write"
    assert budget.is_judged("variation", held)
    if changed == "source":
        shutil.copytree(budget.KERNELS / "include", tmp_path / "include")
        shutil.copytree(budget.KERNELS / "cuda", tmp_path / "cuda")
        (tmp_path / "cuda/elements.cuh").write_text((budget.KERNELS / "cuda/elements.cuh").read_text() + "\n")
        monkeypatch.setattr(budget, "KERNELS", tmp_path)
        monkeypatch.setattr(budget, "INCLUDES", (tmp_path / "include", tmp_path / "cuda"))
    elif changed == "number":
        next(iter(held["units"]["variation"].values()))["sm_80"][0] += 1
    elif changed == "rule":
        monkeypatch.setattr(budget, "RULES", RULES[1:])
    elif changed == "compiler":
        monkeypatch.setattr(budget, "nvrtc_version", lambda: "0.0")
    else:
        monkeypatch.setattr(budget, "tool_version", lambda: "0.0")
    assert not budget.is_judged("variation", held)


def test_every_rule_and_every_line_of_the_budget_is_about_a_kernel() -> None:
    held = budget.read()["units"]
    assert sorted(held) == budget.units()
    kernels = {kernel for unit in held.values() for kernel in unit}
    for name, *_ in RULES:
        assert any(re.fullmatch(name, kernel) for kernel in kernels), name
    for unit, entries in held.items():
        assert entries, unit
        for arches in entries.values():
            assert set(arches) <= set(budget.ARCHITECTURES)
            assert all(registers <= 255 and shared <= 48 * 1024 for registers, shared in arches.values())


def test_reports_and_listings_are_understood() -> None:
    log = (
        "ptxas info    : 184 bytes gmem\n"
        "ptxas info    : Compiling entry function 'one' for 'sm_80'\n"
        "ptxas info    : Function properties for one\n"
        "ptxas         .     16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads\n"
        "ptxas info    : Used 25 registers, used 1 barriers, 16 bytes stack, 32 bytes smem, 360 bytes cmem[0]\n"
        "ptxas info    : Compiling entry function 'two' for 'sm_80'\n"
        "ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
        "ptxas info    : Used 8 registers\n"
    )
    assert budget.usage(log) == {
        "one": {"registers": 25, "spill_bytes": 20, "shared_bytes": 32},
        "two": {"registers": 8, "spill_bytes": 0, "shared_bytes": 0},
    }
    found: dict[str, Any] = {"u": {"one": {"sm_80": [25, 32]}, "two": {"sm_80": [8, 0]}}}
    held = {"units": {"u": {"one": {"sm_80": [24, 32]}, "three": {"sm_80": [8, 0]}}}}
    assert budget.differences(found, held, ["sm_80"]) == [
        "u: one on sm_80: 25 registers, 32 bytes shared; the budget has 24 registers, 32 bytes shared",
        "u: three on sm_80: no such kernel; the budget has 8 registers, 0 bytes shared",
        "u: two on sm_80: 8 registers, 0 bytes shared; the budget has no such kernel",
    ]


def test_spills_and_float_atomics_are_seen(tmp_path: Path) -> None:
    """A kernel that does all that is forbidden, so that the tests above can fail."""
    text = """
        extern "C" __global__ void __launch_bounds__(1024, 2) bad(float* sum, const float4* from) {
            float4 kept[24];
            for (int i = 0; i < 24; ++i) kept[i] = from[i * blockDim.x + threadIdx.x];
            __syncthreads();
            for (int i = 0; i < 24; ++i) atomicAdd(sum + i, kept[i].x * kept[23 - i].y + kept[i].z * kept[23 - i].w);
        }
    """
    cubin, log = budget.compile_cubin(text, "sm_80", [], "bad.cu")
    assert budget.usage(log)["bad"]["spill_bytes"] > 0
    opcodes = budget.disassemble(cubin)["bad"]
    for opcode in (*NEVER, r"LDG\.E\.128"):
        assert any(re.match(opcode, found) for found in opcodes), (opcode, opcodes)


@pytest.mark.parametrize("unit", budget.units())
def test_nvcc_takes_the_same_sources(unit: str, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("no nvcc on the PATH")
    includes = [f"-I{budget.KERNELS / folder}" for folder in ("include", "cuda")]
    command = [
        nvcc,
        "--ptx",
        "-fdevice-syntax-only",  # What comes after its front end is the same in NVRTC.
        "-std=c++17",
        "-arch=sm_90a",
        "-Werror",
        "all-warnings",
        *includes,
    ]
    source = budget.KERNELS / "cuda" / f"{unit}.cu"
    done = subprocess.run(
        [*command, source, "-o", tmp_path / "x.ptx"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_what_the_assembler_puts_before_the_wait_is_found() -> None:
    code = ["S2R", "LDG.E.128", "STG.E", "ACQBULK", "LDG.E", "ATOMG.E.ADD"]
    early = before_waiting(code)
    assert early == {"LDG.E.128 before ACQBULK", "STG.E before ACQBULK"}
    assert before_waiting([code[1], code[4]]) == set()  # It does not wait.
    assert len(faults("gantk_gram_finish", "sm_90a", sorted({*code, *early}))) == 2
    (found,) = faults("gantk_instance_norm_apply_float16", "sm_90a", sorted({*code, *early}))
    assert found.startswith("gantk_instance_norm_apply_float16 has STG.E before ACQBULK")

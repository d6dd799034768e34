# SPDX-License-Identifier: Apache-2.0
"""The structures of Python lie in memory as those of the headers do, for a host compiler and for NVRTC."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from gantk.kernels import parameters

INCLUDE = Path(__file__).resolve().parents[2] / "kernels" / "include"
STRUCTURES = [kind for kind in vars(parameters).values() if isinstance(kind, type(ctypes.Structure))]
STRUCTURES = [kind for kind in STRUCTURES if kind is not ctypes.Structure]


def assertions() -> str:
    """A translation unit that compiles only where every size and every offset is the same."""
    lines = [f"#include <gantk/kernels/{path.name}>" for path in sorted(INCLUDE.rglob("*_parameters.h"))]
    lines += [
        "using namespace gantk::kernels;",
        "#ifdef __CUDACC_RTC__  // What offsetof stands for in NVRTC.",
    ]
    lines += ["#define OFFSET(kind, field) __INTADDR__(&(((kind*)0)->field))", "#else"]
    lines += ["#define OFFSET(kind, field) __builtin_offsetof(kind, field)", "#endif"]
    for kind in STRUCTURES:
        name = kind.__name__
        lines.append(f'static_assert(sizeof({name}) == {ctypes.sizeof(kind)}, "{name}");')
        for field, *_ in kind._fields_:
            offset = getattr(kind, field).offset
            lines.append(f'static_assert(OFFSET({name}, {field}) == {offset}, "{name}.{field}");')
    lines.append(f"static_assert(kMaxGramLayers == {parameters.MAX_GRAM_LAYERS});")
    for groups, sums in parameters.PATCH_SUMS.items():
        lines.append(f"static_assert(patch_sums({groups}) == {sums});")
    lines.append(f"static_assert(kVariationThreads == {parameters.VARIATION_THREADS});")
    return "\n".join(lines)


def test_structures_fit_a_kernels_parameters() -> None:
    assert len(STRUCTURES) >= 2
    for kind in STRUCTURES:
        assert ctypes.sizeof(kind) <= 4096
        assert sum(getattr(kind, field).size for field, *_ in kind._fields_) == ctypes.sizeof(kind), (
            f"{kind.__name__} has padding that nothing names"
        )


def test_a_host_compiler_lays_them_out_alike(tmp_path: Path) -> None:
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no g++ or clang++ on this machine")
    source = tmp_path / "layout.cpp"
    source.write_text(assertions())
    command = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", f"-I{INCLUDE}", source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_nvrtc_lays_them_out_alike() -> None:
    nvrtc = pytest.importorskip("cuda.bindings.nvrtc", reason="no NVRTC: pip install 'gantk[kernels]'")
    error, program = nvrtc.nvrtcCreateProgram(assertions().encode(), b"layout.cu", 0, [], [])
    options = [b"-std=c++17", b"--gpu-architecture=compute_75", f"-I{INCLUDE}".encode()]
    (error,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    _, length = nvrtc.nvrtcGetProgramLogSize(program)
    log = b" " * length
    nvrtc.nvrtcGetProgramLog(program, log)
    assert error == nvrtc.nvrtcResult.NVRTC_SUCCESS, log.decode()

# SPDX-License-Identifier: Apache-2.0
"""Kernels of the project, compiled to PTX by NVRTC and run by the interpreter: what their tests call."""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

import pytest
from ptx import Fault, Machine, Memory, Module, parse

from gantk.kernels.launch import Launch

KERNELS = Path(__file__).resolve().parents[2] / "kernels"
BUDGET = 20_000_000  # instructions of one launch; the largest test needs about a hundredth
LANES = 2048  # threads that are worth running at once: fewer waste numpy calls, more waste cache
# A third of the compiler's time, and shorter code than when loops are unrolled.
QUICK = ("--Ofast-compile=mid",)

__all__ = ["Fault", "Memory", "compile_ptx", "instantiations", "run", "sources"]

_INSTANTIATION = re.compile(r"^[A-Z]\w*\((\w+),.*\).*$", re.M)


def compile_ptx(unit: str, arch: str, kernel: str | None = None, options: tuple[str, ...] = ()) -> Module:
    """The PTX of `kernels/cuda/<unit>.cu`, parsed. Skips the test where NVRTC is missing.

    Args:
        unit: A source file's name without its extension.
        arch: Such as `sm_80` or `sm_90a`; what is compiled is `compute_80`, `compute_90a`.
        kernel: What is wanted of it; other instantiations are left out, which would take most of the time.
        options: Of the compiler, such as `QUICK`.
    """
    text = (KERNELS / "cuda" / f"{unit}.cu").read_text()
    return _parsed(unit, _with_kernel(text, kernel) if kernel else text, _virtual(arch), options)


def instantiations(text: str) -> dict[str, str]:
    """A `.cu` file's text with one of its instantiations alone, for each, by its part of its kernels' names."""
    found = {match[1]: match[0] for match in _INSTANTIATION.finditer(text)}
    return {
        name: _INSTANTIATION.sub(lambda match, kept=line: match[0] if match[0] == kept else "", text)
        for name, line in found.items()
    }


def _with_kernel(text: str, kernel: str) -> str:
    """One instantiation alone: the one whose name is among the words of the kernel's, else any."""
    found = instantiations(text)
    named = [alone for name, alone in found.items() if f"_{name}_" in f"{kernel}_"]
    return [*named, *found.values(), text][0]


def run(
    launches: Sequence[Launch],
    memory: Memory,
    arch: str,
    budget: int | None = None,
    blocks: int | None = None,
    options: tuple[str, ...] = (),
) -> int:
    """Execute launches in their order; returns the number of instructions.

    Args:
        launches: As plans yield them, with addresses of `memory` in their parameters.
        memory: Holds inputs, outputs and workspace.
        arch: The architecture whose code is run.
        budget: Instructions after which a launch is stopped as endless; `BUDGET` by default.
        blocks: How many thread blocks run at once; the default suits their size.
        options: Of the compiler, such as `QUICK`.

    Raises:
        Fault: The kernel broke a rule; the message says which, where.
    """
    total = 0
    for launch in launches:
        module = compile_ptx(launch.unit, arch, launch.kernel, options)
        if launch.kernel not in module.entries:
            raise Fault(
                f"{launch.unit} has no kernel {launch.kernel} for {arch}; it has {', '.join(module.entries)}"
            )
        observe(launch, arch)
        machine = _machine(module, launch, blocks)
        parameters = ctypes.string_at(ctypes.addressof(launch.parameters), ctypes.sizeof(launch.parameters))
        total += machine.run(
            memory,
            parameters,
            launch.tensor_maps,
            budget or BUDGET,
            dependent=launch.dependent and _waits(arch),
        )
    return total


def _waits(arch: str) -> bool:
    """Whether launches of this architecture may begin before the one before them has ended."""
    return int(arch.partition("_")[2].rstrip("a")) >= 90


def observe(launch: Launch, arch: str) -> None:
    """Called for every launch; the mutation tests put their own function here to learn which kernels a case runs."""


@contextmanager
def sources(folder: Path, options: tuple[str, ...] = ()) -> Iterator[None]:
    """Within: kernels are compiled from this copy of the sources, with more options, past the cache (for mutants)."""
    global KERNELS, _options
    before = KERNELS, _options
    KERNELS, _options = folder, options
    forget()
    try:
        yield
    finally:
        KERNELS, _options = before
        forget()


def forget() -> None:
    """Sources have changed: compile them again when next asked for."""
    _parsed.cache_clear()
    _machines.clear()


_options: tuple[str, ...] | None = None  # None: the project's own, and PTX is cached
_machines: dict[tuple[object, ...], tuple[Module, Machine]] = {}


def _machine(module: Module, launch: Launch, blocks: int | None) -> Machine:
    """Compiled closures are kept for the next launch of the same shape."""
    threads = launch.block[0] * launch.block[1] * launch.block[2]
    total = launch.grid[0] * launch.grid[1] * launch.grid[2]
    if blocks is None:
        blocks = max(1, min(LANES // threads, (1 << 20) // max(1, launch.shared_bytes)))
    blocks = max(1, min(blocks, total))
    key = (id(module), launch.kernel, launch.block, launch.grid, launch.shared_bytes, blocks)
    if key not in _machines:
        if len(_machines) >= 8:
            _machines.pop(next(iter(_machines)))
        entry = module.entries[launch.kernel]
        machine = Machine(entry, module.variables, launch.block, launch.grid, launch.shared_bytes, blocks)
        _machines[key] = (module, machine)
    return _machines[key][1]


# Compiling.


def _virtual(arch: str) -> str:
    return "compute_" + arch.removeprefix("sm_").removeprefix("compute_")


@lru_cache(maxsize=32)
def _parsed(unit: str, text: str, arch: str, options: tuple[str, ...]) -> Module:
    return parse(ptx_text(text, unit, arch, (KERNELS / "include", KERNELS / "cuda"), options))


def ptx_text(text: str, name: str, arch: str, includes: Sequence[Path], options: tuple[str, ...] = ()) -> str:
    """PTX of CUDA C++, from the cache of this machine or from NVRTC."""
    pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed: pip install gantk[kernels]")
    if _options is not None:
        return compile_text(text, arch, includes, f"{name}.cu", options + _options)
    file = _cache() / f"{name}-{arch}-{_digest(text, arch, includes, options)}.ptx"
    if file.exists():
        return file.read_text()
    ptx = compile_text(text, arch, includes, f"{name}.cu", options)
    with tempfile.NamedTemporaryFile("w", dir=file.parent, delete=False) as part:
        part.write(ptx)
    Path(part.name).replace(file)  # at once, so that another process never reads half of it
    return ptx


def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"gantk-ptx-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    return folder


def _digest(text: str, arch: str, includes: Sequence[Path], options: tuple[str, ...]) -> str:
    from cuda.bindings import nvrtc

    state = hashlib.sha256(f"{nvrtc.nvrtcVersion()} {arch} {options} {text}".encode())
    for folder in includes:
        for header in sorted(folder.rglob("*.*")):
            if header.suffix in (".h", ".hpp", ".cuh"):
                state.update(header.name.encode() + header.read_bytes())
    return state.hexdigest()[:24]


class CompileError(Exception):
    """NVRTC refused a source; the text is its log."""


def compile_text(
    text: str, arch: str, includes: Sequence[Path], name: str = "unit.cu", more: tuple[str, ...] = ()
) -> str:
    """CUDA C++ to PTX for a virtual architecture."""
    from cuda.bindings import nvrtc

    def check(result: tuple[object, ...]) -> tuple[object, ...]:
        if result[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"NVRTC: {result[0]}")
        return result[1:]

    (program,) = check(nvrtc.nvrtcCreateProgram(text.encode(), name.encode(), 0, [], []))
    options = [f"--gpu-architecture={arch}", "-std=c++17", *(f"-I{folder}" for folder in includes), *more]
    encoded = [option.encode() for option in options]
    try:
        status = nvrtc.nvrtcCompileProgram(program, len(encoded), encoded)[0]
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            log = bytearray(check(nvrtc.nvrtcGetProgramLogSize(program))[0])  # type: ignore[call-overload]
            check(nvrtc.nvrtcGetProgramLog(program, log))
            raise CompileError(log.decode(errors="replace").rstrip("\0"))
        out = bytearray(check(nvrtc.nvrtcGetPTXSize(program))[0])  # type: ignore[call-overload]
        check(nvrtc.nvrtcGetPTX(program, out))
    finally:
        nvrtc.nvrtcDestroyProgram(program)
    return out.decode().rstrip("\0")

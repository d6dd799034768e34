# SPDX-License-Identifier: Apache-2.0
"""CUDA C++ to machine code by NVRTC, once for a machine."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import defaultdict
from functools import cache
from typing import Any

from gantk.errors import BackendMissingError, GantkError
from gantk.kernels.architecture import Target
from gantk.kernels.cache import DiskCache, kernel_cache
from gantk.kernels.sources import Sources, sources

OPTIONS = ("--std=c++17",)
_LOG_LINES = 30
_HINT = "pip install 'gantk[kernels]'"

_compiled: dict[str, bytes] = {}
_locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)


def compiled(unit: str, target: Target) -> bytes:
    """The code of a unit, from this process, else from the cache on disk, else from NVRTC.

    Args:
        unit: A translation unit, e.g. ``gram``.
        target: Its machine code, a cubin, or its PTX.

    Raises:
        BackendMissingError: NVRTC is not installed.
        GantkError: There is no such unit, or it does not compile.
    """
    name = entry_name(unit, target, sources(), nvrtc_version())
    with _locks[name]:  # Threads that want the same code wait for the one that compiles it.
        if name not in _compiled:
            _compiled[name] = _from_disk(name, unit, target, kernel_cache())
        return _compiled[name]


def _from_disk(name: str, unit: str, target: Target, disk: DiskCache | None) -> bytes:
    kept = disk.get(name) if disk else None
    if kept is not None:
        return kept
    code = compile_unit(unit, target, sources())
    if disk:
        disk.put(name, code)
    return code


def entry_name(unit: str, target: Target, code: Sources, nvrtc: tuple[int, int]) -> str:
    """A name that changes with everything that a compiled unit depends on."""
    depends = json.dumps([unit, target.name, code.digest, OPTIONS, nvrtc])
    return f"{unit}-{target.name}-{hashlib.sha256(depends.encode()).hexdigest()}"


def compile_unit(unit: str, target: Target, code: Sources, options: tuple[str, ...] = OPTIONS) -> bytes:
    """Compile one unit with NVRTC; neither a GPU nor a driver is wanted.

    Raises:
        GantkError: There is no such unit, or it does not compile; the compiler's log is in the message.
    """
    if unit not in code.units:
        raise GantkError(f"there is no CUDA unit {unit!r}; there are {', '.join(code.units) or 'none'}")
    nvrtc = _nvrtc()
    headers = [text.encode() for text in code.headers.values()]
    names = [name.encode() for name in code.headers]
    program = _checked(
        nvrtc.nvrtcCreateProgram(
            code.units[unit].encode(), f"{unit}.cu".encode(), len(headers), headers, names
        )
    )
    try:
        flags = [option.encode() for option in (*options, f"--gpu-architecture={target.name}")]
        (status,) = nvrtc.nvrtcCompileProgram(program, len(flags), flags)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise GantkError(
                f"the CUDA unit {unit!r} does not compile for {target.name}: {status.name}\n{_log(program)}",
                where=f"{unit}.cu",
            )
        size, get = (
            (nvrtc.nvrtcGetPTXSize, nvrtc.nvrtcGetPTX)
            if target.is_ptx
            else (nvrtc.nvrtcGetCUBINSize, nvrtc.nvrtcGetCUBIN)
        )
        data = bytearray(_checked(size(program)))
        _checked(get(program, data))
        return bytes(data)
    finally:
        nvrtc.nvrtcDestroyProgram(program)


@cache
def nvrtc_version() -> tuple[int, int]:
    """The version of NVRTC, e.g. (13, 0).

    Raises:
        BackendMissingError: It is not installed.
    """
    try:
        major, minor = _checked(_nvrtc().nvrtcVersion())
    except GantkError:
        raise
    except Exception as error:  # cuda-pathfinder has its own exceptions for a library that is not there.
        raise BackendMissingError(f"NVRTC is not there: {_first_line(error)}", hint=_HINT) from error
    return major, minor


@cache
def known_architectures() -> frozenset[int]:
    """The architectures that this NVRTC compiles for, e.g. 86.

    Raises:
        BackendMissingError: It is not installed.
    """
    nvrtc_version()  # Says in words what is missing.
    return frozenset(_checked(_nvrtc().nvrtcGetSupportedArchs()))


def _nvrtc() -> Any:
    try:
        from cuda.bindings import nvrtc
    except ImportError as error:
        raise BackendMissingError(f"cuda-bindings is not installed: {error}", hint=_HINT) from error
    return nvrtc


def _checked(result: tuple[Any, ...]) -> Any:
    """The values of a call to NVRTC, one bare and more in a tuple, or a `GantkError` with its status."""
    status, *values = result
    if status.value != 0:
        raise GantkError(f"NVRTC fails: {status.name}")
    return values[0] if len(values) == 1 else tuple(values)


def _log(program: Any) -> str:
    nvrtc = _nvrtc()
    text = bytearray(_checked(nvrtc.nvrtcGetProgramLogSize(program)))
    _checked(nvrtc.nvrtcGetProgramLog(program, text))
    lines = text.rstrip(b"\0").decode(errors="replace").strip().splitlines()
    return "\n".join(lines[:_LOG_LINES])


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]

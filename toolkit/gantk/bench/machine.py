# SPDX-License-Identifier: Apache-2.0
"""What a measurement depends on: the machine, how busy it is, and the versions of what ran. No host name."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gantk.runtime import driver
from gantk.runtime.operators import native_operators

BUSY_LOAD = 0.5
"""The load average for each core above which the machine counts as busy."""

NATIVE = "gantk's operators"

_FEATURES = (
    *(
        "sse4_2",
        "avx",
        "avx2",
        "fma",
        "f16c",
        "avx_vnni",
        "avx512f",
        "avx512bw",
        "avx512_vnni",
        "avx512_bf16",
    ),
    *("avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "amx_fp16", "asimd", "fphp", "bf16", "i8mm", "sve"),
)
_PACKAGES = (
    "gantk",
    "numpy",
    "onnx",
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
)


def describe() -> dict[str, Any]:
    """The machine, as JSON; what cannot be read is `None`."""
    cpu = _cpuinfo()
    flags = set((cpu.get("flags") or cpu.get("Features") or "").split())
    return {
        "cpu": cpu.get("model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)),
        "features": [name for name in _FEATURES if name in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": f"{platform.system()} {platform.release()}",
        "virtual": "hypervisor" in flags,
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "frequency_mhz": float(cpu["cpu MHz"]) if "cpu MHz" in cpu else None,
        "load_average": list(os.getloadavg()),
        "gpu": _gpu(),
    }


def busy(machine: dict[str, Any]) -> bool:
    """Whether other work ran when `describe` looked."""
    return bool(machine["load_average"][0] > BUSY_LOAD * machine["usable_cores"])


def versions(device: str) -> dict[str, str]:
    """The versions of Python and of the packages that are installed here.

    And by the name `NATIVE` the beginning of the SHA-256 of the library of native operators, where sessions of ONNX
    Runtime on a device use it.
    """
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    operators = native_operators(device)
    if operators is not None:
        found[NATIVE] = hashlib.sha256(operators.read_bytes()).hexdigest()[:12]
    return found


def commit() -> str | None:
    """The commit of the source tree that gantk runs from, with ``+changes`` where it differs; else `None`."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        head = _git(root, "rev-parse", "--short=12", "HEAD")
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", "toolkit")
    except (OSError, subprocess.SubprocessError):
        return None
    return head + ("+changes" if changed else "")


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]  # git is looked up on the PATH
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=10).stdout.strip()


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor."""
    text = (_read("/proc/cpuinfo") or "").partition("\n\n")[0]
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}


def _gpu() -> dict[str, Any] | None:
    """What the driver says of its GPUs, where there is a driver."""
    found = driver.probe()
    if not found.works:
        return None
    return {"names": list(found.devices), "targets": list(found.targets), "cuda": found.cuda_version}


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None

# SPDX-License-Identifier: Apache-2.0
"""What works on this machine, what does not, and what to do about it. Nothing is changed."""

from __future__ import annotations

import os
import platform
import shutil
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gantk
from gantk.bundle import ENGINE_BACKENDS
from gantk.files import free_bytes, temporary_place
from gantk.runtime import cache, driver
from gantk.runtime.backends.onnxruntime import examine_operators
from gantk.runtime.backends.vendor import installed
from gantk.runtime.cores import core_count
from gantk.runtime.products import PRODUCTS, gpu_trouble
from gantk.runtime.registry import available

CPU_FEATURES = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "amx_bf16",
    "amx_int8",
    "neon",
    "asimd",
)
PACKAGES = (
    "numpy",
    "onnx",
    "pillow",
    "safetensors",
    "torch",
    "lightning-fabric",
    "onnxscript",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "tensorrt-rtx",
    "cuda-bindings",
    "tensorboard",
)
LOW_DISK_BYTES = 2 * 2**30


def examine() -> dict[str, Any]:
    """Look at everything that gantk depends on.

    Returns:
        A JSON object; ``backends`` has the status of each, ``advice`` what to do, in words, and ``works``
        whether at least one backend does. PyTorch is looked for, not imported.
    """
    backends, packages, compiler = available(), installed(*PACKAGES), _compiler()
    report: dict[str, Any] = {
        "works": any(status.works for status in backends),
        "gantk": gantk.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpu": _cpu(),
        "memory_bytes": _memory_bytes(),
        "driver": asdict(driver.probe()),
        "backends": [{**asdict(status), "works": status.works} for status in backends],
        "native_operators": examine_operators(),
        "packages": packages,
        "torch": {"version": packages.get("torch"), "importable": find_spec("torch") is not None},
        "compiler": compiler,
        "cache": cache.examine(),
        "free_bytes": {str(folder): free_bytes(folder) for folder in (Path.cwd(), temporary_place())},
    }
    report["advice"] = _advice(report)
    return report


def _advice(report: dict[str, Any]) -> list[str]:
    """What to do, the worst first."""
    packages = report["packages"]
    advice = [
        f"{status['name']}: {status['reason']}" + (f": {status['hint']}" if status["hint"] else "")
        for status in report["backends"]
        if status["reason"] is not None and status["name"] not in ENGINE_BACKENDS
    ]
    products = [status for status in report["backends"] if status["name"] in ENGINE_BACKENDS]
    unfit = {name: trouble for name, product in PRODUCTS.items() if (trouble := gpu_trouble(product))}
    advice += [
        f"{status['reason']}: {status['hint']}"
        for status in products
        if status["name"] in unfit and status["version"] is not None
    ]
    if report["driver"]["works"] and not any(status["works"] for status in products):
        rtx = "" if "tensorrt-rtx" in unfit else "pip install 'gantk[tensorrt-rtx]' (RTX cards) or "
        advice.append(f"engines want a TensorRT product: {rtx}{PRODUCTS['tensorrt'].install}")
    if report["native_operators"]["reason"] is not None:
        advice.append(f"{report['native_operators']['reason']}: {report['native_operators']['hint']}")
    advice += _cache_advice(report["cache"])
    if not report["works"]:
        advice.insert(0, "no backend works here: pip install 'gantk[cpu,openvino]'")
    if report["driver"]["works"] and "onnxruntime-gpu" not in packages:
        advice.append(
            "there is an NVIDIA GPU that no backend uses: pip install 'gantk[gpu]' instead of 'gantk[cpu]'"
        )
    if packages.get("torch") is None:
        advice.append("training and export want PyTorch: pip install 'gantk[train]'")
    elif report["compiler"] is None:
        advice.append("torch.compile wants a C++ compiler, for the benchmark: apt install g++")
    for folder, free in report["free_bytes"].items():
        if free < LOW_DISK_BYTES:
            advice.append(f"only {free / 2**20:.0f} MiB are free at `{folder}`")
    return advice


def _cache_advice(found: dict[str, Any] | None) -> list[str]:
    """What to do about the cache, without which all works that can be made or fetched again."""
    another = "XDG_CACHE_HOME=FOLDER names another place"
    if found is None:
        return [f"nothing is kept from one command to the next, for this user has no home: {another}"]
    unkept = (
        f"nothing is kept from one command to the next, for `{found['folder']}` cannot be written: {another}"
    )
    return [
        reason for reason in (found["reason"], None if found["writable"] else unkept) if reason is not None
    ]


def _cpu() -> dict[str, Any]:
    """The processor's name, features, and how many cores there are and may be used."""
    fields: dict[str, str] = {}
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            fields.setdefault(key.strip().lower(), value.strip())
    except OSError:
        pass
    flags = set(fields.get("flags", fields.get("features", "")).split())
    return {
        "name": fields.get("model name") or platform.processor() or platform.machine(),
        "features": [feature for feature in CPU_FEATURES if feature in flags],
        "cores": os.cpu_count(),
        "usable_cores": core_count(),
    }


def _memory_bytes() -> dict[str, int | None]:
    sizes: dict[str, int] = {}
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(":")
            sizes[key] = int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    return {"total": sizes.get("MemTotal"), "available": sizes.get("MemAvailable")}


def _compiler() -> str | None:
    """The C++ compiler that torch.compile would find."""
    names = [name for name in (os.environ.get("CXX"), "g++", "c++", "clang++") if name]
    return next((found for name in names if (found := shutil.which(name))), None)

# SPDX-License-Identifier: Apache-2.0
"""What the kernels need, what of it is here, and why they do not run where they do not."""

from __future__ import annotations

from typing import Any

from gantk.errors import GantkError
from gantk.kernels.cache import kernel_cache
from gantk.kernels.compile import nvrtc_version
from gantk.kernels.device import gpu
from gantk.runtime.backends.vendor import installed
from gantk.runtime.cache import may_write
from gantk.runtime.driver import probe

_PACKAGES = ("cuda-bindings", "nvidia-cuda-nvrtc", "pycuda")


def why_not(ordinal: int = 0) -> GantkError | None:
    """Why the kernels do not run on a GPU, or `None` where they do."""
    try:
        gpu(ordinal)
    except GantkError as error:
        return error
    return None


def examine() -> dict[str, Any]:
    """Look at everything that the kernels depend on, and change nothing.

    Returns:
        A JSON object: ``works`` on at least one GPU, else ``reason`` and ``hint``; ``nvrtc``, its version or `None`;
        ``packages`` and their versions; ``cache`` with its ``folder``, ``size_bytes`` and whether it is
        ``writable``, or `None` where it is off; ``devices`` with their ``name``, ``compute_capability`` and the
        ``target`` that code is compiled for, or the ``reason`` why not.
    """
    devices = [_device(ordinal, name) for ordinal, name in enumerate(probe().devices)]
    works = any("target" in device for device in devices)
    error = None if works else why_not()
    return {
        "works": works,
        "reason": error.what if error else None,
        "hint": error.hint if error else None,
        "nvrtc": _nvrtc(),
        "packages": installed(*_PACKAGES),
        "cache": _cache(),
        "devices": devices,
    }


def _nvrtc() -> str | None:
    try:
        return ".".join(map(str, nvrtc_version()))
    except GantkError:
        return None


def _device(ordinal: int, name: str) -> dict[str, Any]:
    try:
        found = gpu(ordinal)
    except GantkError as error:
        return {"name": name, "reason": error.what}
    capability = ".".join(map(str, found.device.compute_capability))
    return {"name": name, "compute_capability": capability, "target": found.target.name}


def _cache() -> dict[str, Any] | None:
    cache = kernel_cache()
    if cache is None:
        return None
    return {
        "folder": str(cache.folder),
        "size_bytes": cache.size_bytes(),
        "writable": may_write(cache.folder),
    }

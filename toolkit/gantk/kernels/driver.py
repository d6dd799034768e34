# SPDX-License-Identifier: Apache-2.0
"""Calls to NVIDIA's driver that fail in words."""

from __future__ import annotations

from typing import Any

from gantk.errors import BackendMissingError, GantkError
from gantk.runtime.driver import probe

_HINTS = {
    "CUDA_ERROR_OUT_OF_MEMORY": "free some GPU memory, or give fewer pictures at a time",
    "CUDA_ERROR_UNSUPPORTED_PTX_VERSION": "NVRTC is newer than the driver: update the driver, or install the "
    "nvidia-cuda-nvrtc of its CUDA version",
    "CUDA_ERROR_ILLEGAL_ADDRESS": "some earlier kernel of this process read or wrote out of bounds; "
    "compute-sanitizer finds it",
    "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED": "run it once before the graph is captured",
}


class DriverError(GantkError):
    """A call to the driver that failed.

    Args:
        function: E.g. ``cuLaunchKernel``.
        status: E.g. ``CUDA_ERROR_OUT_OF_MEMORY``.
        text: The driver's words for it.
        where: What it was about.
    """

    def __init__(self, function: str, status: str, text: str, where: str | None = None) -> None:
        super().__init__(f"{function} fails: {status} ({text})", where=where, hint=_HINTS.get(status))
        self.status = status


def call(function: str, *arguments: Any, where: str | None = None) -> Any:
    """Call a function of the driver.

    Returns:
        `None`, its one value, or a tuple of its values.

    Raises:
        DriverError: The driver gives an error.
        GantkError: The driver is too old to have the function.
    """
    cuda = bindings()
    try:
        status, *values = getattr(cuda, function)(*arguments)
    except RuntimeError as error:
        hint = "update the NVIDIA driver; CUDA 12 is the oldest that the kernels run with"
        raise GantkError(f"the NVIDIA driver has no {function}: {error}", hint=hint) from error
    if status.value != 0:
        failed, text = cuda.cuGetErrorString(status)
        words = text.decode() if failed.value == 0 and text else "unknown"
        raise DriverError(function, status.name, words, where)
    if len(values) > 1:
        return tuple(values)
    return values[0] if values else None


def bindings() -> Any:
    """The module `cuda.bindings.driver`, for its functions and enumerations.

    Raises:
        BackendMissingError: It is not installed.
    """
    try:
        from cuda.bindings import driver
    except ImportError as error:
        raise BackendMissingError(
            f"cuda-bindings is not installed: {error}", hint="pip install 'gantk[kernels]'"
        ) from error
    return driver


def require_driver() -> None:
    """Raise a `BackendMissingError` where there is no driver that works."""
    found = probe()
    if not found.works:
        raise BackendMissingError(f"the kernels need an NVIDIA GPU: {found.reason}")

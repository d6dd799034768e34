# SPDX-License-Identifier: Apache-2.0
"""The one probe of NVIDIA's driver; every use of a GPU asks here first."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache

LIBRARY = "libcuda.so.1"

OLDEST_DRIVER = {12: "525.60.13", 13: "580.65.06"}
"""Of a major version of CUDA the first driver for Linux that serves it (CUDA's release notes, table 3)."""

_MISSING = "install NVIDIA's driver on a machine with one of its GPUs; docker wants --gpus all"
_RESTART = "nvidia-smi tells more; after an update of the driver a restart is wanted"

# CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR, as cuda.h numbers them.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


@dataclass(frozen=True)
class Driver:
    """What the driver said.

    Args:
        works: Whether it starts and sees a GPU.
        cuda_version: The newest CUDA version it serves, e.g. ``13.0``, where it is there.
        devices: The names of the GPUs.
        reason: Why it does not work.
        targets: The architecture of each GPU, e.g. ``sm_89``.
        hint: What to do about that.
    """

    works: bool
    cuda_version: str | None = None
    devices: tuple[str, ...] = ()
    reason: str | None = None
    targets: tuple[str, ...] = ()
    hint: str | None = None


@cache
def probe() -> Driver:
    """Ask the driver once: `cuInit`, its version and its GPUs."""
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError:
        return Driver(works=False, reason=f"no NVIDIA driver: {LIBRARY} is not there", hint=_MISSING)
    number, count = ctypes.c_int(0), ctypes.c_int(0)
    cuda.cuDriverGetVersion(ctypes.byref(number))  # Works before cuInit.
    version = f"{number.value // 1000}.{number.value % 1000 // 10}"
    status = cuda.cuInit(0)
    if status != 0:
        reason = (
            f"the NVIDIA driver, for CUDA {version}, does not start: cuInit gives {_error_name(cuda, status)}"
        )
        return Driver(works=False, cuda_version=version, reason=reason, hint=_RESTART)
    cuda.cuDeviceGetCount(ctypes.byref(count))
    names = tuple(_device_name(cuda, index) for index in range(count.value))
    targets = tuple(_target(cuda, index) for index in range(count.value))
    if not names:
        return Driver(
            works=False, cuda_version=version, reason="the NVIDIA driver sees no GPU", hint=_MISSING
        )
    return Driver(works=True, cuda_version=version, devices=names, targets=targets)


def targets_here() -> tuple[str, ...]:
    """The architecture of the GPU that is current, e.g. ``sm_89``; none where no GPU works."""
    here = current_gpu()
    return probe().targets[here : here + 1]


def current_gpu() -> int:
    """The number of the GPU that is current for the calling thread; that of the first where none is."""
    device = ctypes.c_int(0)
    try:
        status = ctypes.CDLL(LIBRARY).cuCtxGetDevice(ctypes.byref(device))
    except OSError:  # There is no driver.
        return 0
    return device.value if status == 0 else 0  # It fails where no context is current.


def _device_name(cuda: ctypes.CDLL, index: int) -> str:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(256)
    if cuda.cuDeviceGet(ctypes.byref(device), index) != 0 or cuda.cuDeviceGetName(name, 256, device) != 0:
        return f"GPU {index}"
    return name.value.decode(errors="replace")


def _target(cuda: ctypes.CDLL, index: int) -> str:
    """The architecture of a GPU, from its compute capability."""
    device, numbers = ctypes.c_int(0), []
    cuda.cuDeviceGet(ctypes.byref(device), index)
    for attribute in (_CAPABILITY_MAJOR, _CAPABILITY_MINOR):
        number = ctypes.c_int(0)
        cuda.cuDeviceGetAttribute(ctypes.byref(number), attribute, device)
        numbers.append(number.value)
    return f"sm_{numbers[0]}{numbers[1]}"


def _error_name(cuda: ctypes.CDLL, status: int) -> str:
    text = ctypes.c_char_p()
    if cuda.cuGetErrorName(status, ctypes.byref(text)) != 0 or not text.value:
        return str(status)
    return text.value.decode(errors="replace")

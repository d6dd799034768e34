# SPDX-License-Identifier: Apache-2.0
"""The two TensorRT products, whose Python modules are alike, and what tells them apart."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any

from gantk.errors import BackendMissingError
from gantk.runtime import driver
from gantk.runtime.backends.vendor import installed, shortened


@dataclass(frozen=True)
class Product:
    """One of the products.

    What its module offers is asked of the module, by name. But TensorRT for RTX keeps names of its parent whose
    functions it lacks: these are told here.

    Args:
        name: Of the backend.
        module: That is imported.
        packages: Whose version is the product's, the first that is installed.
        ahead_of_time: Whether it builds for other GPUs than the one at hand, and without any.
        options: Of `gantk.bundle.ENGINE_OPTIONS`, those that work.
        keeps_timing_cache: Whether its builds measure, and so can keep what they measured.
        quick_plugins: Whether its engines take plugins' PTX (`gantk.kernels.tensorrt`).
        not_on: The GPU architectures, of those that gantk knows, on which it runs no engine.
    """

    name: str
    module: str
    packages: tuple[str, ...]
    ahead_of_time: bool
    options: tuple[str, ...]
    keeps_timing_cache: bool
    quick_plugins: bool
    not_on: tuple[str, ...] = ()

    @property
    def install(self) -> str:
        """The command that makes it work."""
        return f"pip install 'gantk[{self.name}]'"

    @property
    def version(self) -> str | None:
        """Of the installed package, without importing it."""
        return next(iter(installed(*self.packages).values()), None)

    @property
    def builds(self) -> dict[str, str]:
        """Its installed packages that are for one major version of CUDA, with their versions.

        All of them have the same files, so that a second one overwrites the first.
        """
        found = installed(*(f"{self.name}-cu{major}" for major in driver.OLDEST_DRIVER))
        return {name: version for name, version in found.items() if "-cu" in name}

    @property
    def cuda_major(self) -> int | None:
        """The major version of CUDA that it wants of the driver, where its packages tell."""
        return max((int(name.rpartition("-cu")[2]) for name in self.builds), default=None)


PRODUCTS = {
    product.name: product
    for product in (
        Product(
            "tensorrt",
            "tensorrt",
            ("tensorrt", "tensorrt-cu13"),
            ahead_of_time=False,
            options=("version-compatible", "hardware-compatible", "refit", "strip"),
            keeps_timing_cache=True,
            quick_plugins=True,
        ),
        Product(
            "tensorrt-rtx",
            "tensorrt_rtx",
            ("tensorrt-rtx", "tensorrt-rtx-cu13"),
            ahead_of_time=True,
            options=("refit", "strip"),
            keeps_timing_cache=False,
            quick_plugins=False,
            # Release 1.7.1 says so on an H100: "Supported compute capabilities: 8.0 8.6 8.9 12.0 12.1 >12.0".
            not_on=("sm_90", "sm_100", "sm_103"),
        ),
    )
}


def load(product: Product) -> ModuleType:
    """The module of a product.

    Raises:
        BackendMissingError: It is not installed, was overwritten by another release, or cannot be imported.
    """
    if product.version is None:
        raise BackendMissingError(f"{product.name} is not installed", hint=product.install)
    twice = overwritten(product)
    if twice is not None:
        raise BackendMissingError(f"{product.name} cannot be used: {twice.reason}", hint=twice.hint)
    try:
        module = import_module(product.module)
    except Exception as error:  # A package without its libraries fails in many ways.
        raise BackendMissingError(
            f"{product.name} {product.version} cannot be imported: {shortened(error)}",
            hint=f"pip install --force-reinstall {product.packages[0]}",
        ) from error
    if module.__version__ != product.version:  # E.g. one of the system's beside one of pip's.
        raise BackendMissingError(
            f"two releases of {product.name} are installed: its package is {product.version}, and what is imported "
            f"is {module.__version__}, of `{module.__file__}`",
            hint=f"keep one of them: pip uninstall -y {product.packages[0]}, or remove the other",
        )
    return module


@dataclass(frozen=True)
class Trouble:
    """Why a product does not work here, and what to do about it."""

    reason: str
    hint: str


def overwritten(product: Product) -> Trouble | None:
    """Whether two packages of a product, for two versions of CUDA, lie on top of each other."""
    builds = product.builds
    if len(builds) < 2:
        return None
    listed = " and ".join(f"{name} {version}" for name, version in builds.items())
    hint = f"pip uninstall -y {product.packages[0]} {' '.join(builds)} && {product.install}"
    return Trouble(f"{listed} are both installed, and one has overwritten the other", hint)


def driver_trouble(product: Product) -> Trouble | None:
    """Why the driver here does not serve a product: it is missing, does not start, sees no GPU, or is too old."""
    found, wanted = driver.probe(), product.cuda_major
    if not found.works:
        hint = found.hint or "run it on a machine with an NVIDIA GPU"
        return Trouble(found.reason or "the NVIDIA driver does not work", hint)
    if wanted is None or found.cuda_version is None or int(found.cuda_version.partition(".")[0]) >= wanted:
        return None
    return Trouble(
        f"the NVIDIA driver is too old: it serves CUDA {found.cuda_version}, and {product.name} {product.version} "
        f"wants CUDA {wanted}",
        f"install NVIDIA's driver {driver.OLDEST_DRIVER[wanted]} or a later one",
    )


def gpu_trouble(product: Product) -> Trouble | None:
    """Why no engine of a product runs on the GPU here: it is of an architecture that the product leaves out."""
    found, here = driver.probe(), driver.current_gpu()
    if not any(target in product.not_on for target in driver.targets_here()):
        return None
    return Trouble(
        f"{product.name} runs no engine on {found.devices[here]} ({found.targets[here]})",
        f"backend onnxruntime runs on it, and so do engines of tensorrt: {PRODUCTS['tensorrt'].install}",
    )


def need_gpu(product: Product, doing: str) -> None:
    """Refuse to go on without a GPU that the product runs engines on (see `need_driver`).

    Raises:
        BackendMissingError: It runs none on the GPU here; or as `need_driver`.
    """
    _refuse(product, doing, gpu_trouble(product) or driver_trouble(product))


def need_driver(product: Product, doing: str) -> None:
    """Refuse to go on without a GPU: what the product's objects do then is not defined, and some crash.

    Raises:
        BackendMissingError: The driver does not start, sees no GPU, or is older than the product wants.
    """
    _refuse(product, doing, driver_trouble(product))


def _refuse(product: Product, doing: str, trouble: Trouble | None) -> None:
    if trouble is not None:
        raise BackendMissingError(
            f"{product.name} cannot {doing} here: {trouble.reason}",
            hint=f"{trouble.hint}; gantk doctor tells what works here",
        )


def targets(trt: ModuleType) -> tuple[str, ...]:
    """The GPU architectures that a product builds for ahead of time, oldest first, e.g. ``sm_75``."""
    names = dir(trt.ComputeCapability) if hasattr(trt, "ComputeCapability") else ()
    numbers = sorted(int(found[1]) for name in names if (found := re.fullmatch(r"SM(\d+)", name)))
    return tuple(f"sm_{number}" for number in numbers)


def layer_type(trt: ModuleType, dtype: Any) -> str:
    """What gantk calls one of a product's data types: one of `gantk.bundle.LAYER_TYPES`."""
    return _names(trt).get(dtype, "other")


def tensor_dtype(trt: ModuleType, dtype: Any) -> str:
    """What a data type of a product is called in a `TensorSpec`."""
    kind = layer_type(trt, dtype)
    return {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}.get(kind, kind)


@cache
def _names(trt: ModuleType) -> dict[Any, str]:
    known = {
        "FLOAT": "fp32",
        "HALF": "fp16",
        "BF16": "bf16",
        "FP8": "fp8",
        "INT8": "int8",
        "INT4": "int4",
        "FP4": "fp4",
        "UINT8": "uint8",
        "INT32": "int32",
        "INT64": "int64",
        "BOOL": "bool",
    }
    # Older releases lack some.
    return {getattr(trt.DataType, name): kind for name, kind in known.items() if hasattr(trt.DataType, name)}

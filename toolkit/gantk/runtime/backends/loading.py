# SPDX-License-Identifier: Apache-2.0
"""An engine's bytes, loaded by the product and held against the manifest."""

from __future__ import annotations

import ctypes
from types import ModuleType
from typing import Any

from gantk.errors import GantkError
from gantk.runtime.backends.vendor import check_interface, vendor_errors
from gantk.runtime.cuda import Cuda, is_shortage
from gantk.runtime.engines import EngineFile
from gantk.runtime.product_log import log
from gantk.runtime.products import tensor_dtype


def deserialize(trt: ModuleType, file: EngineFile, calls: Cuda) -> tuple[Any, Any]:
    """The product's runtime and the engine of a file.

    Raises:
        GantkError: There is no memory for it, or the library does not load it; its words are told.
    """
    heard, where = log(trt), str(file.path)
    with heard.listening(), vendor_errors(f"`{where}` cannot be loaded", where):
        if hasattr(trt, "init_libnvinfer_plugins") and file.engine.plugins:
            trt.init_libnvinfer_plugins(heard.logger, "")
        runtime = trt.Runtime(heard.logger)
        for library in file.engine.plugins:
            _register(runtime, library)
        if "version-compatible" in file.engine.options:
            runtime.engine_host_code_allowed = True  # The engine carries its own lean runtime.
        engine = runtime.deserialize_cuda_engine(file.data)
        if engine is None and is_shortage(heard.said()):
            raise calls.shortage(len(file.data), f"`{where}`", heard.said())
        if engine is None:
            raise GantkError(
                f"`{where}` cannot be loaded: {heard.said()}",
                where=where,
                hint="build it again on this machine: gantk export BUNDLE --to " + file.engine.backend,
            )
    return runtime, engine


def _register(runtime: Any, library: str) -> None:
    """Let a runtime take the plugins of a library that is loaded, where it does not register them by itself.

    Where the runtime refuses it, perhaps for it has them, the engine that lacks one says so.
    """
    if hasattr(ctypes.CDLL(library), "getCreators"):
        runtime.get_plugin_registry().load_library(library)


def check_tensors(trt: ModuleType, engine: Any, file: EngineFile) -> None:
    """Refuse an engine whose tensors or profiles are not those that its manifest declares, or are not on the GPU."""
    modes: dict[Any, dict[str, str]] = {trt.TensorIOMode.INPUT: {}, trt.TensorIOMode.OUTPUT: {}}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        modes[engine.get_tensor_mode(name)][name] = tensor_dtype(trt, engine.get_tensor_dtype(name))
        if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise GantkError(
                f"{name!r} of `{file.where}` decides on shapes, and lies in host memory, which gantk does not feed",
                where=file.where,
            )
    check_interface(file, modes[trt.TensorIOMode.INPUT], modes[trt.TensorIOMode.OUTPUT])
    if engine.num_optimization_profiles != len(file.engine.profiles):
        raise GantkError(
            f"`{file.where}` has {engine.num_optimization_profiles} profiles; declared are "
            f"{len(file.engine.profiles)}",
            where=file.where,
            hint="the manifest does not belong to this file; build it again",
        )

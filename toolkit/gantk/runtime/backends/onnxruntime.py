# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the default backend, on CPUs and NVIDIA GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.errors import BackendMissingError, GantkError
from gantk.runtime import driver
from gantk.runtime.backends.vendor import check_interface, installed, shortened, vendor_errors
from gantk.runtime.model import Model
from gantk.runtime.operators import INSTALL, OPERATORS, PACKAGE, native_operators
from gantk.runtime.registry import BACKENDS, BackendStatus
from gantk.runtime.runner import Array, Runner

if TYPE_CHECKING:
    import onnxruntime

NAME = "onnxruntime"
PACKAGES = ("onnxruntime", "onnxruntime-gpu")
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

CPU_ONLY = "gantk.cpu_only"
"""The library's setting that keeps what it has for CPUs alone out of a session for a GPU."""

_NUMPY_NAMES = {"float": "float32", "double": "float64"}


def probe() -> BackendStatus:
    """Whether ONNX Runtime is installed, and where it can run."""
    versions = installed(*PACKAGES)
    number = next(iter(versions.values()), None)
    if not versions and find_spec("onnxruntime") is None:
        return BackendStatus(NAME, None, (), "it is not installed", BACKENDS[NAME].install)
    try:
        import onnxruntime

        number, providers = onnxruntime.__version__, onnxruntime.get_available_providers()
    except Exception as error:  # A half-removed package fails in many ways.
        return BackendStatus(NAME, number, (), f"it cannot be imported: {shortened(error)}", _mend(versions))
    gpu = PROVIDERS["cuda"] in providers
    bindings = bool(installed("cuda-bindings"))
    devices = ("cuda", "cpu") if gpu and bindings and driver.probe().works else ("cpu",)
    if len(versions) > 1:
        reason = "onnxruntime and onnxruntime-gpu are both installed, and one has overwritten the other"
        return BackendStatus(NAME, number, devices, reason, _mend(versions))
    if not gpu:
        return BackendStatus(NAME, number, devices)
    if not bindings:
        reason = "cuda-bindings, with which it is run on a GPU, is not installed"
        return BackendStatus(NAME, number, devices, reason, BACKENDS[NAME].install)
    return BackendStatus(NAME, number, devices, driver.probe().reason)


def executed(precision: str, device: str, *, native: bool = False) -> str | None:
    """What a file of a precision is computed in: the CPU provider casts fp16 to fp32 and has no bf16.

    fp8 has no kernels: values are rounded to it, and computed with in fp32. Gantk's native operators have bf16.

    Args:
        precision: Of the file.
        device: Where.
        native: Whether these operators are all that is heavy in it.
    """
    if precision == "fp8":
        return "fp32"
    if device == "cuda":
        return precision
    if precision == "bf16":
        return precision if native and native_operators(device) is not None else None
    return {"fp32": "fp32", "fp16": "fp32", "int8": "int8"}.get(precision)


def open(model: Model, device: str, threads: int) -> Runner:  # noqa: A001
    """Load a model (see `gantk.runtime.registry.open_model`)."""
    if device == "cuda":
        from gantk.runtime.backends.onnxruntime_cuda import CudaRunner

        return CudaRunner(model, threads)
    return CpuRunner(model, threads)


class CpuRunner(Runner):
    """An inference session, which threads may share.

    Args:
        operators: The library of native operators that it uses, where there is one.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self.operators = native_operators("cpu")
        self._session: onnxruntime.InferenceSession | None = make_session(
            model, session_options(model, "cpu", threads, self.operators), PROVIDERS["cpu"]
        )
        super().__init__(model.inputs, model.outputs, **facts(model, "cpu"))
        self._names = [spec.name for spec in self.outputs]

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise self._closed()
        try:
            results = session.run(self._names, arrays)
        except Exception as error:
            raise self._failed(shortened(error)) from error
        return self._delivered(dict(zip(self._names, results, strict=True)), out)

    def close(self) -> None:
        self._session = None


def examine_operators() -> dict[str, Any]:
    """What `gantk doctor` says of the native operators for CPUs.

    The `library` or what should have been it, the `reason` why it cannot be used, and a `hint` what to do then.
    """
    try:
        library = native_operators("cpu")
        if library is None:
            return {"library": None, "reason": None, "hint": None}
        import onnxruntime

        _register(onnxruntime.SessionOptions(), library)
    except GantkError as error:
        named = os.environ.get(OPERATORS) or PACKAGE
        return {"library": named, "reason": error.what, "hint": error.hint}
    except ImportError:
        reason = "ONNX Runtime is not installed"
        return {"library": str(library), "reason": reason, "hint": BACKENDS[NAME].install}
    return {"library": str(library), "reason": None, "hint": None}


def _register(options: Any, operators: Path) -> None:
    hint = f"build them again ({INSTALL}), or do without: {OPERATORS}="
    with vendor_errors(f"ONNX Runtime cannot load the operators of `{operators}`", str(operators), hint):
        options.register_custom_ops_library(str(operators))


def facts(model: Model, device: str) -> dict[str, Any]:
    """What a runner says of itself."""
    import onnxruntime

    return {
        "backend": NAME,
        "version": onnxruntime.__version__,
        "device": device,
        "precision": executed(model.precision, device, native=model.is_wholly_native) or model.precision,
        "file_precision": model.precision,
    }


def session_options(
    model: Model, device: str, threads: int, operators: Path | None
) -> onnxruntime.SessionOptions:
    """What a session is told whatever its provider.

    Raises:
        GantkError: The library of native operators cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if operators is not None:
        if device == "cuda":
            options.add_session_config_entry(CPU_ONLY, "0")
        _register(options, operators)
    options.intra_op_num_threads = threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A pattern is one more block for all tensors of a run, beside those that the arena had given to the first run.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # Errors come as exceptions.
    if model.precision == "fp8":
        # Further optimisations take fp8 for uint8: they drop ReLUs before a rounding, and fuse layers into int8 ones.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options


def make_session(
    model: Model,
    options: onnxruntime.SessionOptions,
    provider: str,
    settings: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """Load a file with one of `PROVIDERS`, and see that it is what the model says.

    Raises:
        BackendMissingError: The provider does not start.
        GantkError: The library refuses the file, or its inputs and outputs are others.
    """
    import onnxruntime

    source = str(model.path) if model.external else model.data
    with vendor_errors(f"ONNX Runtime cannot load `{model.where}`", model.where):
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, dict(settings or {}))])
    session.disable_fallback()
    # A provider that does not start is replaced by the CPU's with no more than a warning.
    if session.get_providers()[0] != provider:
        raise BackendMissingError(
            f"onnxruntime cannot use {provider} here; it fell back to {session.get_providers()[0]}",
            hint="pip install 'onnxruntime-gpu[cuda,cudnn]'; device='cpu' works without",
        )
    check_interface(model, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
    return session


def _tensors(arguments: list[Any]) -> dict[str, str]:
    """Name to dtype; ONNX Runtime calls float32 ``tensor(float)``."""
    types = {argument.name: argument.type.removeprefix("tensor(").removesuffix(")") for argument in arguments}
    return {name: _NUMPY_NAMES.get(kind, kind) for name, kind in types.items()}


def _mend(versions: Mapping[str, str]) -> str:
    keep = "gantk[gpu]" if "onnxruntime-gpu" in versions else "gantk[cpu]"
    return f"pip uninstall -y {' '.join(PACKAGES)} && pip install '{keep}'"

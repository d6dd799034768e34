# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the default backend, on CPUs and NVIDIA GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from gantk.errors import BackendMissingError, GantkError
from gantk.runtime.model import Model
from gantk.runtime.registry import BACKENDS, BackendStatus
from gantk.runtime.runner import Array, Runner

if TYPE_CHECKING:
    import onnxruntime

NAME = "onnxruntime"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def probe() -> BackendStatus:
    """Whether ONNX Runtime is installed, and where it can run."""
    try:
        import onnxruntime
    except ImportError as error:
        return BackendStatus(NAME, _installed(), (), f"cannot be imported: {error}", BACKENDS[NAME].install)
    found = onnxruntime.get_available_providers()
    devices = tuple(device for device in ("cuda", "cpu") if PROVIDERS[device] in found)
    return BackendStatus(NAME, onnxruntime.__version__, devices)


def executed(precision: str, device: str) -> str | None:
    """What a file of that precision is computed in; the CPU provider turns fp16 into fp32 and refuses bf16."""
    if device == "cuda":
        return precision
    return {"fp32": "fp32", "fp16": "fp32", "int8": "int8"}.get(precision)


def open(model: Model, device: str, threads: int) -> Runner:  # noqa: A001
    """Load a model (see `gantk.runtime.registry.open_model`)."""
    return OnnxRuntimeRunner(model, device, threads)


class OnnxRuntimeRunner(Runner):
    """An inference session."""

    def __init__(self, model: Model, device: str, threads: int) -> None:
        import onnxruntime

        self._session: onnxruntime.InferenceSession | None = _session(model, device, threads)
        super().__init__(
            model.inputs,
            model.outputs,
            backend=NAME,
            version=onnxruntime.__version__,
            device=device,
            precision=executed(model.precision, device) or model.precision,
            file_precision=model.precision,
        )
        self._names = [spec.name for spec in self.outputs]

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        session = self._session
        if session is None:
            raise GantkError("the runner is closed")
        try:
            results = dict(zip(self._names, session.run(self._names, arrays), strict=True))
        except Exception as error:
            raise GantkError(f"ONNX Runtime failed: {error}") from error
        for name, array in out.items():
            np.copyto(array, results[name])
            results[name] = array
        return results

    def close(self) -> None:
        self._session = None


def _session(model: Model, device: str, threads: int) -> onnxruntime.InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 3
    providers: list[Any] = [PROVIDERS[device]]
    source = str(model.path) if model.external else model.data
    try:
        session = onnxruntime.InferenceSession(source, options, providers=providers)
    except Exception as error:
        raise GantkError(f"ONNX Runtime cannot load `{model.where}`: {error}", where=model.where) from error
    if session.get_providers()[0] != PROVIDERS[device]:
        raise BackendMissingError(f"onnxruntime has no working {PROVIDERS[device]} here", hint="gantk doctor")
    return session


def _installed() -> str | None:
    try:
        return version("onnxruntime")
    except PackageNotFoundError:
        return None

# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime: the default backend, on CPUs and NVIDIA GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from gantk.errors import GantkError
from gantk.runtime import driver
from gantk.runtime.backends.onnxruntime_session import (
    NAME,
    PROVIDERS,
    executed,
    facts,
    make_session,
    register,
    session_options,
)
from gantk.runtime.backends.vendor import installed, shortened
from gantk.runtime.model import Model
from gantk.runtime.operators import OPERATORS, PACKAGE, native_operators
from gantk.runtime.registry import BACKENDS, BackendStatus
from gantk.runtime.runner import Array, Runner

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["executed", "open", "probe"]  # What `gantk.runtime.registry` wants of a backend.

PACKAGES = ("onnxruntime", "onnxruntime-gpu")


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

        register(onnxruntime.SessionOptions(), library)
    except GantkError as error:
        named = os.environ.get(OPERATORS) or PACKAGE
        return {"library": named, "reason": error.what, "hint": error.hint}
    except ImportError:
        reason = "ONNX Runtime is not installed"
        return {"library": str(library), "reason": reason, "hint": BACKENDS[NAME].install}
    return {"library": str(library), "reason": None, "hint": None}


def _mend(versions: Mapping[str, str]) -> str:
    keep = "gantk[gpu]" if "onnxruntime-gpu" in versions else "gantk[cpu]"
    return f"pip uninstall -y {' '.join(PACKAGES)} && pip install '{keep}'"

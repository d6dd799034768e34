# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: a faster way on many CPUs."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime.model import Model
from gantk.runtime.registry import BACKENDS, BackendStatus
from gantk.runtime.runner import Array, Runner

NAME = "openvino"

# The layers that take the time, as the CPU plug-in calls them.
_HEAVY = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_RUNTIME_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}


def probe() -> BackendStatus:
    """Whether OpenVINO is installed; gantk uses its CPU device only."""
    try:
        import openvino
    except ImportError as error:
        return BackendStatus(NAME, _installed(), (), f"cannot be imported: {error}", BACKENDS[NAME].install)
    return BackendStatus(NAME, openvino.__version__.split("-")[0], ("cpu",))


def executed(precision: str, device: str) -> str | None:
    """What a file of that precision is computed in; bf16 wants a CPU that has it, and there is no fp16."""
    if device != "cpu":
        return None
    if precision == "bf16":
        import openvino

        return "bf16" if "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else None
    return {"fp32": "fp32", "int8": "int8"}.get(precision)


def open(model: Model, device: str, threads: int) -> Runner:  # noqa: A001
    """Load a model (see `gantk.runtime.registry.open_model`)."""
    return OpenVinoRunner(model, device, threads)


class OpenVinoRunner(Runner):
    """A compiled model, and as many inference requests as threads have wanted at once."""

    def __init__(self, model: Model, device: str, threads: int) -> None:
        import openvino

        self._compiled: Any = _compile(model, threads)
        self._requests: deque[Any] = deque()
        super().__init__(
            model.inputs,
            model.outputs,
            backend=NAME,
            version=openvino.__version__.split("-")[0],
            device=device,
            precision=heavy_precision(self._compiled) or executed(model.precision, device) or model.precision,
            file_precision=model.precision,
        )

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        compiled = self._compiled
        if compiled is None:
            raise GantkError("the runner is closed")
        request = self._requests.pop() if self._requests else compiled.create_infer_request()
        try:
            values = request.infer(arrays, share_inputs=True)
            results = {spec.name: values[spec.name] for spec in self.outputs}
        except Exception as error:
            raise GantkError(f"OpenVINO failed: {error}") from error
        self._requests.append(request)
        for name, array in out.items():
            np.copyto(array, results[name])
            results[name] = array
        return results

    def close(self) -> None:
        self._compiled = None
        self._requests.clear()


def heavy_precision(compiled: Any) -> str | None:
    """The precision in which most of the heavy layers of a compiled model run, or `None` where it has none."""
    counts: dict[str, int] = {}
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].value in _HEAVY:
            kind = info["runtimePrecision"].value
            counts[kind] = counts.get(kind, 0) + 1
    if not counts:
        return None
    kind = max(counts, key=lambda key: counts[key])
    return _RUNTIME_PRECISIONS.get(kind, kind)


def _compile(model: Model, threads: int) -> Any:
    import openvino

    options = {
        "INFERENCE_PRECISION_HINT": "bf16" if model.precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    core = openvino.Core()
    try:
        source = core.read_model(str(model.path)) if model.external else core.read_model(model.data)
        return core.compile_model(source, "CPU", options)
    except Exception as error:
        raise GantkError(f"OpenVINO cannot load `{model.where}`: {error}", where=model.where) from error


def _installed() -> str | None:
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None

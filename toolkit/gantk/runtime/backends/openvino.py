# SPDX-License-Identifier: Apache-2.0
"""OpenVINO: a faster way on many CPUs, and the one that computes in bf16."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

from gantk.runtime.backends.openvino_depthwise import mend_depthwise
from gantk.runtime.backends.vendor import check_interface, installed, shortened, vendor_errors
from gantk.runtime.model import Model
from gantk.runtime.onnx_file import without_functions
from gantk.runtime.registry import BACKENDS, BackendStatus
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec

NAME = "openvino"

# The layers that take the time, as the CPU plug-in calls them, and its names of their precisions.
HEAVY_LAYERS = ("Convolution", "Deconvolution", "FullyConnected", "MatMul")
_PRECISIONS = {"f32": "fp32", "bf16": "bf16", "f16": "fp16", "i8": "int8", "u8": "int8"}
_NUMPY_NAMES = {
    "f32": "float32",
    "f16": "float16",
    "bf16": "bfloat16",
    "f64": "float64",
    "boolean": "bool",
} | {
    f"{kind}{bits}": f"{name}{bits}"
    for kind, name in (("i", "int"), ("u", "uint"))
    for bits in (8, 16, 32, 64)
}


def probe() -> BackendStatus:
    """Whether OpenVINO is installed and has its CPU device, the only one that gantk uses."""
    number = installed(NAME).get(NAME)
    if number is None:
        return BackendStatus(NAME, None, (), "it is not installed", BACKENDS[NAME].install)
    try:
        devices = _core().available_devices
    except Exception as error:
        reason = f"it cannot be imported: {shortened(error)}"
        return BackendStatus(NAME, number, (), reason, "pip install --force-reinstall openvino")
    if "CPU" not in devices:
        return BackendStatus(NAME, number, (), f"it has no CPU device, only {', '.join(devices) or 'none'}")
    return BackendStatus(NAME, number, ("cpu",))


def executed(precision: str, device: str, *, native: bool = False) -> str | None:
    """What a file of a precision is computed in; bf16 wants a CPU that has it, and fp16 would be cast.

    Native operators are ONNX Runtime's; here their bodies are computed, in the same precision.
    """
    if device != "cpu":
        return None
    if precision == "bf16":
        return "bf16" if "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") else None
    return {"fp32": "fp32", "int8": "int8"}.get(precision)


def open(model: Model, device: str, threads: int) -> Runner:  # noqa: A001
    """Load a model (see `gantk.runtime.registry.open_model`)."""
    return OpenVinoRunner(model, device, threads)


class OpenVinoRunner(Runner):
    """A compiled model, with as many inference requests as threads have wanted at once."""

    def __init__(self, model: Model, device: str, threads: int) -> None:
        self._compiled: Any = _compile(model, threads)
        layers = heavy_layers(self._compiled)
        super().__init__(
            model.inputs,
            model.outputs,
            backend=NAME,
            version=installed(NAME)[NAME],
            device=device,
            precision=max(layers, key=lambda kind: layers[kind]) if layers else model.precision,
            file_precision=model.precision,
            layers=layers,
        )
        self._in_ports = [(spec.name, self._compiled.input(spec.name)) for spec in self.inputs]
        self._out_ports = [(spec.name, self._compiled.output(spec.name)) for spec in self.outputs]
        self._idle: deque[Any] = deque([self._compiled.create_infer_request()])

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        from openvino import Tensor

        compiled = self._compiled
        if compiled is None:
            raise self._closed()
        try:
            request = self._idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            for name, port in self._in_ports:
                array = arrays[name]
                # A shared tensor must be writeable, though nothing writes to it.
                request.set_tensor(port, Tensor(array, shared_memory=array.flags.writeable))
            request.infer(share_outputs=True)
            # Views of memory that the request's next run overwrites: copied out before it is idle again.
            views = {name: request.get_tensor(port).data for name, port in self._out_ports}
            results = self._delivered(views, out, copy=True)
        except RuntimeError as error:
            raise self._failed(shortened(error)) from error
        self._idle.append(request)
        return results

    def close(self) -> None:
        self._compiled = None
        self._in_ports, self._out_ports = [], []
        self._idle.clear()


def heavy_layers(compiled: Any) -> dict[str, int]:
    """How many of the heavy layers of a compiled model run in each precision, as the plug-in itself says."""
    kinds: Counter[str] = Counter()
    for node in compiled.get_runtime_model().get_ops():
        info = node.get_rt_info()
        if info["layerType"].astype(str) in HEAVY_LAYERS:
            kind = info["runtimePrecision"].astype(str)
            kinds[_PRECISIONS.get(kind, kind)] += 1
    return dict(kinds)


def _compile(model: Model, threads: int) -> Any:
    options = {
        # Left out, a float32 model runs in bf16 where the CPU has it.
        "INFERENCE_PRECISION_HINT": "bf16" if model.precision == "bf16" else "f32",
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    core = _core()
    with vendor_errors(f"OpenVINO cannot load `{model.where}`", model.where):
        # It knows no local functions of ONNX.
        source = core.read_model(str(model.path) if model.external else without_functions(model.data))
        mend_depthwise(source, lowered=model.precision == "bf16")
        compiled = core.compile_model(source, "CPU", options)
    check_interface(model, _tensors(compiled.inputs, model.inputs), _tensors(compiled.outputs, model.outputs))
    return compiled


def _tensors(ports: Sequence[Any], declared: Sequence[TensorSpec]) -> dict[str, str]:
    """Name to dtype; of a port's several names the declared one, where that is among them."""
    found: dict[str, str] = {}
    for port in ports:
        names, kind = port.get_names(), port.get_element_type().get_type_name()
        name = next((spec.name for spec in declared if spec.name in names), port.get_any_name())
        found[name] = _NUMPY_NAMES.get(kind, kind)
    return found


@cache
def _core() -> Any:
    with _untold():
        import openvino

        return openvino.Core()


@contextmanager
def _untold() -> Iterator[None]:
    """Let OpenVINO do without the package by which it tells Google Analytics of every import, as it then does."""
    name = "openvino_telemetry"
    if name in sys.modules:  # Whoever imported it has decided.
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # An import of it fails.
    try:
        yield
    finally:
        del sys.modules[name]

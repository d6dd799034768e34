# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CUDA provider on fake GPU memory, computed for real by its CPU provider.

What a session enqueues is done when somebody waits for it (see `fake_streams`).
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest

from fake_cuda import FakeCuda
from gantk.runtime import driver

REAL = onnxruntime.InferenceSession
PROVIDERS = ["CUDAExecutionProvider", "CPUExecutionProvider"]


class FakeProvider:
    """Makes sessions, and notes with which settings.

    Args:
        cuda: Whose memory and streams they use.
        in_main_memory: The inputs that an operator reads there.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.fail: set[int] = set()  # Of all bound runs, counted from 1.
        self.leaves: tuple[str, int] | None = None  # A node that each run leaves in a graph: kind and source.
        self.in_main_memory: set[str] = set()  # The inputs that operators read there.
        self.settings: dict[str, str] = {}
        self.runs = 0

    def session(self, source: Any, options: Any, providers: Any) -> FakeSession:
        ((name, self.settings),) = providers
        assert name == PROVIDERS[0]
        return FakeSession(self, REAL(source, options, providers=PROVIDERS[1:]))


class FakeBinding:
    """What a session is told of memory, for its run on fake GPU memory.

    Args:
        provider: Whose memory it is.
        real: The binding of the real session, to which a GPU's memory is the processor's.
    """

    def __init__(self, provider: FakeProvider, real: Any) -> None:
        self._cuda, self._provider, self.real = provider.cuda, provider, real
        self._places: list[tuple[int, int]] = []
        self.shapes: list[list[int]] = []  # Of the inputs.

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def bind_input(self, name: str, device: str, gpu: int, element: Any, shape: Any, address: int) -> None:
        self._places.append((address, gpu))
        self.shapes.append(shape)
        if name in self._provider.in_main_memory:
            self._cuda.fault(f"{name} is copied here, and what comes later is not")
        self.real.bind_input(name, device, 0, element, shape, address)

    def bind_output(self, name: str, device: str, gpu: int, element: Any, shape: Any, address: int) -> None:
        self._places.append((address, gpu))
        self.real.bind_output(name, device, 0, element, shape, address)

    def check(self, gpu: int) -> None:
        for address, told in self._places:
            if not self._cuda.gpu_of(address) == told == gpu:
                self._cuda.fault("the memory is of another GPU")


class FakeSession:
    """An inference session on a fake GPU."""

    def __init__(self, provider: FakeProvider, real: Any) -> None:
        self._provider, self._real = provider, real
        self._stream = int(provider.settings["user_compute_stream"])
        self._gpu = int(provider.settings.get("device_id", 0))
        self._planned_for: list[list[int]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def io_binding(self) -> FakeBinding:
        return FakeBinding(self._provider, self._real.io_binding())

    def get_input_memory_infos(self) -> list[SimpleNamespace]:
        here = self._provider.in_main_memory
        return [
            SimpleNamespace(name="Cpu" if node.name in here else "Cuda") for node in self._real.get_inputs()
        ]

    def get_providers(self) -> list[str]:
        return PROVIDERS

    def run_with_iobinding(self, binding: FakeBinding, options: Any = None) -> None:
        cuda = self._provider.cuda
        if options is None:  # It waits then.
            self._real.run_with_iobinding(binding.real)
            return
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self._provider.runs += 1
        planned, self._planned_for = self._planned_for, binding.shapes
        if planned != binding.shapes and self._stream in cuda.recording:
            raise RuntimeError(
                "[ONNXRuntimeError] : 1 : FAIL : convolutions are planned while the stream is capturing"
            )
        if self._provider.runs in self._provider.fail:
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : not while the stream is capturing")
        cuda.cudaSetDevice(self._gpu)  # As the provider does, which leaves it so.
        if cuda.stream(self._stream).gpu != self._gpu:
            cuda.fault(f"the stream of a session on GPU {self._gpu} is on another")

        def run() -> None:
            binding.check(self._gpu)
            self._real.run_with_iobinding(binding.real, options)

        cuda.work(self._stream, run)
        if self._provider.leaves is not None:
            cuda.work(self._stream, lambda: None, *self._provider.leaves)


def install(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """Replace CUDA, the driver and the sessions."""
    cuda = FakeCuda()
    provider = FakeProvider(cuda)
    monkeypatch.setattr("gantk.runtime.cuda.bindings", lambda: cuda)
    monkeypatch.setattr("gantk.runtime.driver_context.bindings", lambda: cuda)
    monkeypatch.setattr(driver, "current_gpu", lambda: cuda.current)
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(True, "13.0", ("H100",), targets=("sm_90",)))
    monkeypatch.setattr("gantk.runtime.backends.onnxruntime_cuda.MEMORY", "cpu")
    monkeypatch.setattr(onnxruntime, "InferenceSession", provider.session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    return provider

# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime's CUDA provider on fake GPU memory, computed for real by its CPU provider.

What a session enqueues is done at once, or when the graph that captured it is launched.
"""

from __future__ import annotations

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
        fail: Of all bound runs, counted from 1, those that fail.
    """

    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda
        self.fail: set[int] = set()
        self.settings: dict[str, str] = {}
        self.runs = 0

    def session(self, source: Any, options: Any, providers: Any) -> FakeSession:
        ((name, self.settings),) = providers
        assert name == PROVIDERS[0]
        return FakeSession(self, REAL(source, options, providers=PROVIDERS[1:]))


class FakeSession:
    """An inference session on a fake GPU."""

    def __init__(self, provider: FakeProvider, real: Any) -> None:
        self._provider, self._real = provider, real
        self._stream = int(provider.settings["user_compute_stream"])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_providers(self) -> list[str]:
        return PROVIDERS

    def run_with_iobinding(self, binding: Any, options: Any = None) -> None:
        if options is None:  # It waits then.
            self._real.run_with_iobinding(binding)
            return
        assert options.get_run_config_entry("disable_synchronize_execution_providers") == "1"
        self._provider.runs += 1
        if self._provider.runs in self._provider.fail:
            raise RuntimeError("[ONNXRuntimeError] : 1 : FAIL : not while the stream is capturing")
        self._provider.cuda.work(self._stream, lambda: self._real.run_with_iobinding(binding, options))


def install(monkeypatch: pytest.MonkeyPatch) -> FakeProvider:
    """Replace CUDA, the driver and the sessions."""
    cuda = FakeCuda()
    provider = FakeProvider(cuda)
    monkeypatch.setattr("gantk.runtime.cuda.bindings", lambda: cuda)
    monkeypatch.setattr(driver, "probe", lambda: driver.Driver(True, "13.0", ("H100",), targets=("sm_90",)))
    monkeypatch.setattr("gantk.runtime.backends.onnxruntime_cuda.MEMORY", "cpu")
    monkeypatch.setattr(onnxruntime, "InferenceSession", provider.session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: PROVIDERS)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    return provider

# SPDX-License-Identifier: Apache-2.0
"""A fake driver in the place of `cuda.bindings.driver`, for what must be seen without a GPU."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from gantk.kernels import device, driver, launcher, status, tensor_map
from gantk.runtime.driver import Driver


@pytest.fixture
def interpreted(install: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Puts a fake driver in place whose GPU runs the real PTX of the kernels."""
    from interpreted_gpu import InterpretedMemory, execute

    def put(**arguments: Any) -> Any:
        memory = InterpretedMemory(monkeypatch)
        return install(memory=memory, execute=partial(execute, memory), **arguments)

    return put


@pytest.fixture
def cuda(interpreted: Callable[..., Any]) -> Any:
    """The fake driver, with one GPU that runs the kernels."""
    return interpreted()


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Puts a fake driver in place, as if this process had not used one before; afterwards nothing may leak."""
    bindings = pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
    from fake_gpu import FakeCuda, stand_in

    installed: list[FakeCuda] = []

    def put(**arguments: Any) -> FakeCuda:
        fake = FakeCuda(**arguments)
        found = Driver(works=True, cuda_version="13.0", devices=("Fake",) * len(fake.gpus))
        monkeypatch.setattr(bindings, "driver", fake, raising=False)
        monkeypatch.setattr(device, "_gpus", {})
        monkeypatch.setattr(launcher, "compiled", stand_in)
        monkeypatch.setattr(launcher, "_libraries", {})
        monkeypatch.setattr(launcher, "_kernels", {})
        monkeypatch.setattr(tensor_map, "_encode_tiled", lambda: fake.encode_tiled)
        for module in (driver, status):
            monkeypatch.setattr(module, "probe", lambda: found)
        tensor_map.encoded.cache_clear()
        installed.append(fake)
        return fake

    yield put
    if any(fake.allocated for fake in installed):
        gc.collect()
    tensor_map.encoded.cache_clear()
    for fake in installed:
        assert fake.allocated == {}, "GPU memory is not given back"
        assert fake.events == {}, "an event is not destroyed"
        assert not any(fake.stacks.values()), "a context is still pushed"
        assert not fake.relaxed, "the capture mode is not put back"
        assert set(fake.retained.values()) <= {1}, "a primary context is retained more than once"

# SPDX-License-Identifier: Apache-2.0
"""The adapter to pycuda, on a stand-in for it whose launches run the real PTX, against float64."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from judged import TRIALS

from gantk.errors import BackendMissingError, GantkError
from gantk.kernels import pycuda as adapter
from gantk.kernels import tensor_map

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, stand_in
from fake_pycuda import FakePyCUDA
from function_references import ROUNDING, error, gram, gram_slope, numbers, style

from variations import variation

pytestmark = TRIALS

Array = np.ndarray[Any, Any]
STREAM = object()


@pytest.fixture
def pycuda(interpreted: Callable[..., FakeCuda], monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePyCUDA]:
    fake = interpreted()  # Its driver does nothing here but encode tensor maps.
    installed = FakePyCUDA(fake.memory, fake.execute, tensor_maps=fake.tensor_maps)
    for name, module in installed.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(adapter, "compiled", stand_in)
    adapter._memoized.cache_clear()
    yield installed
    adapter._memoized.cache_clear()
    if installed.allocated:
        gc.collect()  # Errors that a test looked at keep arrays.
    assert installed.allocated == {}
    assert {name for name, _ in fake.calls} == set()


def put(values: Array, order: tuple[int, ...] | None = None, **more: Any) -> Any:
    """A GPUArray of values; `order` says in which order, outermost first, its axes lie."""
    kind = sys.modules["pycuda.gpuarray"].GPUArray
    if order is not None:
        stored = np.empty(values.transpose(order).shape, values.dtype)
        more["strides"] = tuple(stored.transpose(np.argsort(order)).strides)
    return kind(values.shape, values.dtype, **more).set(values)


@pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: np.dtype(dtype).name)
def test_values_are_those_of_float64(pycuda: FakePyCUDA, dtype: Any) -> None:
    given, outer = numbers(2, 5, 4, 6, dtype=dtype), numbers(2, 5, 5)
    features = put(given)
    assert error(adapter.gram_matrix(features).get(), gram(given)) < 2e-6
    slope = adapter.gram_matrix_grad(put(outer), features, 0.5)
    assert slope.dtype == dtype
    assert error(slope.get(), gram_slope(outer, given, 0.5)) < ROUNDING[dtype]
    value, slope = adapter.total_variation(features, "l2", with_gradient=True)
    wanted, gradient = variation(given, "l2", 0)
    np.testing.assert_allclose(value.get(), wanted, rtol=1e-5)
    assert error(slope.get(), gradient) < max(ROUNDING[dtype], 1e-5)
    target = numbers(5, 5)
    loss, slopes = adapter.style_loss([features], [put(target)], [2.0], with_gradient=True)
    wanted, (gradient,) = style([given], [target], [2.0])
    np.testing.assert_allclose(loss.get(), wanted, rtol=1e-5)
    assert error(slopes[0].get(), gradient) < max(ROUNDING[dtype], 1e-5)


def test_layouts_and_out_and_streams(pycuda: FakePyCUDA) -> None:
    given = numbers(2, 5, 4, 6)
    last = put(given, (0, 2, 3, 1))
    out = put(np.full((2, 5, 5), np.nan, np.float32))
    pycuda.calls.clear()
    assert adapter.gram_matrix(last, out=out, stream=STREAM) is out
    assert error(out.get(), gram(given)) < 2e-6
    slope = adapter.total_variation(last, "l2", with_gradient=True, stream=STREAM)[1]
    assert slope.strides == last.strides
    assert error(slope.get(), variation(given, "l2", 0)[1]) < 1e-5
    adapter.style_loss([last], [put(numbers(5, 5))], [1.0], with_gradient=True, stream=STREAM)
    used = [call[-1] for call in pycuda.calls if call[0] in ("launch", "memset")]
    assert len(used) > 6
    assert set(map(id, used)) == {id(STREAM)}


def test_code_is_loaded_once_a_context(pycuda: FakePyCUDA) -> None:
    features, grad = put(numbers(1, 70, 8, 9)), put(numbers(1, 70, 70))
    for _ in range(2):
        adapter.gram_matrix_grad(grad, features)
    loaded = [call for call in pycuda.calls if call[0] == "module_from_buffer"]
    assert len(loaded) == len(set(loaded))
    opted = [call for call in pycuda.calls if call[0] == "set_attribute"]
    assert len(opted) == len(set(opted))
    assert opted  # These kernels want more than 48 KiB.
    pycuda.current = object()
    adapter.gram_matrix_grad(grad, features)
    assert len([call for call in pycuda.calls if call[0] == "module_from_buffer"]) == 2 * len(loaded)


def test_hopper_gets_its_tensor_maps(pycuda: FakePyCUDA) -> None:
    pycuda.capability, pycuda.shared_bytes = (9, 0), 227 * 1024
    for name, module in pycuda.modules().items():
        sys.modules[name] = module
    tensor_map.encoded.cache_clear()
    given = numbers(1, 64, 16, 16, dtype=ml_dtypes.bfloat16)
    assert error(adapter.gram_matrix(put(given)).get(), gram(given)) < 2e-6
    assert pycuda.tensor_maps
    assert ("module_from_buffer", "gram_sm90", "sm_90a") in pycuda.calls


def test_memory_comes_from_the_arrays_allocator(pycuda: FakePyCUDA) -> None:
    asked: list[int] = []

    def allocator(size: int) -> Any:
        asked.append(size)
        return pycuda.mem_alloc(size)

    features = put(numbers(1, 40, 8, 9), allocator=allocator)
    asked.clear()
    found = adapter.gram_matrix(features)
    assert len(asked) == 2
    assert asked[0] == 4 * 40 * 40
    assert len(pycuda.allocated) == 2  # The features and the result: the workspace went back.
    del found


def test_what_does_not_do_is_refused(pycuda: FakePyCUDA, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GantkError, match="features is a numpy.ndarray; a GPUArray of pycuda is wanted"):
        adapter.gram_matrix(numbers(1, 4, 9))
    with pytest.raises(GantkError, match="features are float64"):
        adapter.gram_matrix(put(numbers(1, 4, 9).astype(np.float64)))
    with pytest.raises(GantkError, match=r"out is float32\[1, 4, 5\]"):
        adapter.gram_matrix(put(numbers(1, 4, 9)), out=put(numbers(1, 4, 5)))
    monkeypatch.setattr(pycuda, "current", None)
    with pytest.raises(GantkError, match="no context of pycuda is current") as missing:
        adapter.gram_matrix(put(numbers(1, 4, 9)))
    assert missing.value.hint == "import pycuda.autoinit"


def test_a_machine_without_pycuda_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(BackendMissingError, match="pycuda is not there") as missing:
        adapter.gram_matrix(object())
    assert "gantk[pycuda]" in str(missing.value.hint)

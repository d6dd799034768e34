# SPDX-License-Identifier: Apache-2.0
"""The interpreter against a GPU: the same PTX, the same inputs, the same bits; `pytest -m gpu`.

An H100 gave the same bits in all of them (2026-11-26). NaNs may differ in their payload, which PTX leaves open.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import snippets_basic
import snippets_hopper
from snippets import MAP_OFFSET, Array, Map, Snippet, interpret, ptx_of

from gantk.runtime.driver import probe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe().works, reason=f"no GPU here: {probe().reason}"),
]
SNIPPETS = [*snippets_basic.SNIPPETS, *snippets_hopper.SNIPPETS]


@pytest.fixture(scope="module")
def capability() -> Iterator[tuple[int, int]]:
    """Compute capability of the first GPU, with its primary context current."""
    from cuda.bindings import driver

    call(driver.cuInit(0))
    device = call(driver.cuDeviceGet(0))
    call(driver.cuCtxSetCurrent(call(driver.cuDevicePrimaryCtxRetain(device))))
    names = driver.CUdevice_attribute
    yield (
        call(driver.cuDeviceGetAttribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device)),
        call(driver.cuDeviceGetAttribute(names.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device)),
    )
    call(driver.cuDevicePrimaryCtxRelease(device))


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[s.name for s in SNIPPETS])
def test_a_gpu_gives_the_bits_of_the_interpreter(snippet: Snippet, capability: tuple[int, int]) -> None:
    needed = snippet.arch.removeprefix("sm_")
    if needed == "90a" and capability != (9, 0):
        pytest.skip(f"code for sm_90a does not run on sm_{capability[0]}{capability[1]}")
    if needed != "90a" and divmod(int(needed), 10) > capability:
        pytest.skip(f"code for {snippet.arch} does not run on sm_{capability[0]}{capability[1]}")
    for ours, theirs in zip(interpret(snippet), execute(snippet), strict=True):
        same = ours.view(f"u{ours.itemsize}") == theirs.view(f"u{ours.itemsize}")
        if ours.dtype.kind == "f":
            same |= np.isnan(ours) & np.isnan(theirs)
        assert same.all(), f"{int((~same).sum())} values differ; first at {np.argwhere(~same)[0]}"


def call(result: tuple[Any, ...]) -> Any:
    """The value of a driver call, or a failure with its error."""
    assert int(result[0]) == 0, f"the driver says {result[0]!r}"
    return result[1] if len(result) == 2 else result[1:]


@contextmanager
def on_device(array: Array) -> Iterator[int]:
    from cuda.bindings import driver

    address = call(driver.cuMemAlloc(max(16, array.nbytes)))
    try:
        call(driver.cuMemcpyHtoD(address, np.ascontiguousarray(array).ctypes.data, array.nbytes))
        yield int(address)
    finally:
        call(driver.cuMemFree(address))


def execute(snippet: Snippet) -> list[Array]:
    """Run a snippet on the GPU."""
    from contextlib import ExitStack

    from cuda.bindings import driver

    with ExitStack() as stack:
        inputs = [stack.enter_context(on_device(each)) for each in snippet.inputs]
        starts = [snippet.initial.get(i, np.zeros_like(each)) for i, each in enumerate(snippet.expected)]
        outputs = [stack.enter_context(on_device(each)) for each in starts]
        pointers = [*inputs, *[0] * (4 - len(inputs)), *outputs, *[0] * (4 - len(outputs))]
        tensor_map = encode(snippet.map, inputs[0]) if snippet.map else bytes(128)
        parameters = struct.pack(f"<{MAP_OFFSET // 8}Q", *pointers) + tensor_map
        module = call(driver.cuModuleLoadData(ptx_of(snippet.source, snippet.arch).encode() + b"\0"))
        try:
            launch(call(driver.cuModuleGetFunction(module, b"k")), snippet, parameters)
            results = [np.empty_like(each) for each in snippet.expected]
            for result, address in zip(results, outputs, strict=True):
                call(driver.cuMemcpyDtoH(result.ctypes.data, address, result.nbytes))
        finally:
            call(driver.cuModuleUnload(module))
    return results


def launch(function: Any, snippet: Snippet, parameters: bytes) -> None:
    from cuda.bindings import driver

    held = np.frombuffer(parameters, np.uint8)
    pointers = np.array([held.ctypes.data], np.uint64)
    attribute = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
    call(driver.cuFuncSetAttribute(function, attribute, snippet.shared))
    grid, block = (snippet.grid, 1, 1), (snippet.block, 1, 1)
    call(driver.cuLaunchKernel(function, *grid, *block, snippet.shared, 0, pointers.ctypes.data, 0))
    call(driver.cuCtxSynchronize())


def encode(spec: Map, address: int) -> bytes:
    """The 128 bytes of a CUtensorMap."""
    import ctypes

    from cuda.bindings import driver as d

    element = {
        "float16": d.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        "float32": d.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
    }[spec.element]
    swizzle = {
        0: d.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_NONE,
        32: d.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_32B,
        64: d.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_64B,
        128: d.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
    }[spec.swizzle]
    rank = len(spec.sizes)
    encoded = call(
        d.cuTensorMapEncodeTiled(
            element, rank, address, [d.cuuint64_t(s) for s in spec.sizes],
            [d.cuuint64_t(s) for s in spec.strides_bytes], [d.cuuint32_t(b) for b in spec.box],
            [d.cuuint32_t(1)] * rank, d.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle,
            d.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_NONE,
            d.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )  # fmt: skip
    return ctypes.string_at(encoded.getPtr(), 128)

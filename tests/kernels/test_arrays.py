# SPDX-License-Identifier: Apache-2.0
"""Other libraries' arrays through both protocols: layouts, streams, ownership; and our arrays, given to others."""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gantk.errors import GantkError
from gantk.kernels.arrays import view
from gantk.kernels.device import gpu
from gantk.kernels.memory import DeviceArray, Memory, to_device
from gantk.kernels.streams import Stream
from gantk.runtime import dlpack

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, FakeGPU
from fake_memory import FakeMemory

OURS, THEIRS = 0x5000, 0x6000  # Streams.


@pytest.fixture
def cuda(install: Callable[..., FakeCuda]) -> FakeCuda:
    return install(memory=FakeMemory(), gpus=(FakeGPU(), FakeGPU()))


class Interface:
    """An array of a library that has the CUDA Array Interface alone, as pycuda and Numba do."""

    def __init__(self, **found: Any) -> None:
        self.__cuda_array_interface__ = {"version": 3, "typestr": "<f4", **found}


class Producer:
    """An array of a library that has DLPack alone; counts what it lent and got back.

    Args:
        versioned: Whether it makes capsules of DLPack 1 when asked for.
        knows_versions: Whether its method takes `max_version` at all.
    """

    def __init__(
        self,
        address: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        dtype: tuple[int, int, int] = (2, 32, 1),
        *,
        versioned: bool = False,
        knows_versions: bool = True,
        device: tuple[int, int] = (dlpack.CUDA, 0),
        offset: int = 0,
        flags: int = 0,
        major: int = 1,
    ) -> None:
        self.__dict__.update(locals())
        self.lent, self.returned, self.streams = 0, 0, []
        self.__dlpack_device__ = lambda: device

    def __dlpack__(self, **asked: Any) -> object:
        if "max_version" in asked and not self.knows_versions:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(asked["stream"])
        self.lent += 1
        sizes = (ctypes.c_int64 * 16)(*self.shape)
        strides = (ctypes.c_int64 * 16)(*(self.strides or ()))
        pointer = ctypes.POINTER(ctypes.c_int64)
        managed = dlpack._ManagedVersioned() if self.versioned else dlpack._Managed()
        managed.tensor = dlpack.Tensor(
            self.address,
            dlpack._Device(*self.device),
            len(self.shape),
            dlpack._DType(*self.dtype),
            ctypes.cast(sizes, pointer),
            ctypes.cast(strides, pointer) if self.strides else pointer(),
            self.offset,
        )
        if self.versioned:
            managed.major, managed.flags = self.major, self.flags
        name = b"dltensor_versioned" if self.versioned else b"dltensor"

        @ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
        def end(capsule: int) -> None:
            if dlpack._is_valid(capsule, name):
                self.returned += 1

        self.kept = (sizes, strides, managed, name, end)
        return dlpack._new(ctypes.addressof(managed), name, ctypes.cast(end, ctypes.c_void_p))


# What comes in.


def test_the_interface_gives_shape_strides_and_device(cuda: FakeCuda) -> None:
    array = to_device(np.zeros((2, 3, 4), np.float32), device=1)
    address = array.view("x").address
    found = view(Interface(shape=(2, 3, 4), data=(address, False), strides=None), "x", Stream())
    assert (found.address, found.shape, found.strides) == (address, (2, 3, 4), (12, 4, 1))
    assert (found.dtype, found.ordinal, found.read_only) == ("float32", 1, False)
    half = Interface(shape=(2, 2), data=(address, True), strides=(48, 8), typestr="<f2")
    found = view(half, "x", Stream())
    assert (found.dtype, found.strides, found.read_only) == ("float16", (24, 4), True)
    assert found.span == (address, address + 58)
    back = Interface(shape=(3,), data=(address + 8, False), strides=(-4,))
    assert view(back, "x", Stream()).span == (address, address + 12)
    assert cuda.waits == []


@pytest.mark.parametrize(
    ("producer", "ours", "waits"),
    [(None, OURS, []), (THEIRS, OURS, [(OURS, THEIRS)]), (OURS, OURS, []), (1, 0, []), (2, None, [(1, 2)])],
)
def test_our_stream_waits_for_the_one_that_the_interface_names(
    cuda: FakeCuda, producer: int | None, ours: int | None, waits: list[tuple[int, int]]
) -> None:
    array = to_device(np.zeros(4, np.float32))
    given = Interface(shape=(4,), data=(array.view("x").address, False), stream=producer)
    view(given, "x", Stream.of(ours))
    assert cuda.waits == waits


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("knows_versions", [False, True])
def test_a_capsule_is_read_and_returned(cuda: FakeCuda, versioned: bool, knows_versions: bool) -> None:
    producer = Producer(
        0x4000, (2, 3, 4), (1, 8, 2), (4, 16, 1),
        versioned=versioned and knows_versions, knows_versions=knows_versions, offset=64,
        device=(dlpack.CUDA, 1), flags=dlpack.READ_ONLY,
    )  # fmt: skip
    found = view(producer, "x", Stream(OURS))
    assert (found.address, found.shape, found.strides) == (0x4040, (2, 3, 4), (1, 8, 2))
    assert (found.dtype, found.item_bytes, found.ordinal) == ("bfloat16", 2, 1)
    assert found.read_only == (versioned and knows_versions)
    assert producer.streams == [OURS]
    assert (producer.lent, producer.returned) == (1, 0)
    del found
    assert (producer.lent, producer.returned) == (1, 1)


def test_strides_that_a_capsule_leaves_out_are_those_of_c(cuda: FakeCuda) -> None:
    assert view(Producer(0x4000, (2, 3, 4)), "x", Stream()).strides == (12, 4, 1)


def test_a_capsule_is_returned_when_what_is_in_it_is_refused(cuda: FakeCuda) -> None:
    producer = Producer(0x4000, (4,), versioned=True, major=2)
    with pytest.raises(GantkError, match=r"DLPack 2\.0; version 1"):
        view(producer, "x", Stream())
    assert (producer.lent, producer.returned) == (1, 1)


def test_capsules_of_real_producers_are_read() -> None:
    torch = pytest.importorskip("torch", reason="wants torch")
    array = np.zeros((2, 3, 4), np.float32)[:, ::2]
    half = torch.zeros((2, 3), dtype=torch.bfloat16).T
    for producer, address, shape, strides, dtype in (
        (array, array.ctypes.data, (2, 2, 4), (12, 8, 1), "float32"),
        (half, half.data_ptr(), (3, 2), (1, 3), "bfloat16"),
    ):
        for asked in ({}, {"max_version": (1, 0)}):
            capsule = producer.__dlpack__(**asked)
            tensor, flags = dlpack.read(capsule)
            assert tensor.data + tensor.byte_offset == address
            assert tuple(tensor.shape[: tensor.ndim]) == shape
            assert tuple(tensor.strides[: tensor.ndim]) == strides
            assert (str(tensor.dtype), tensor.device.kind, flags) == (dtype, 1, 0)
    array.flags.writeable = False
    assert dlpack.read(array.__dlpack__(max_version=(1, 0)))[1] == dlpack.READ_ONLY


def test_a_capsule_that_was_consumed_is_no_array(cuda: FakeCuda) -> None:
    producer = Producer(0x4000, (4,))
    capsule = producer.__dlpack__(stream=1)
    rename = ctypes.pythonapi.PyCapsule_SetName
    rename.argtypes = (ctypes.py_object, ctypes.c_char_p)
    name = b"used_dltensor"
    rename(capsule, name)
    with pytest.raises(GantkError, match="no DLPack capsule that is still full"):
        dlpack.read(capsule)
    with pytest.raises(GantkError, match="a dict is no DLPack capsule"):
        dlpack.read({})


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.ones(3, np.float32), r"x is a ndarray outside of GPU memory \(DLPack device 1\)"),
        ([1.0, 2.0], "x is a builtins.list; an array in GPU memory is wanted"),
        (None, "x is a builtins.NoneType"),
        (Interface(shape=(2,), data=(64, False), mask=object()), "x has a mask"),
        (Interface(shape=(2,), data=(64, False), strides=(6,)), r"strides of \(6,\) bytes; multiples of 4"),
        (Interface(shape=(2,), data=(64, False)), "cuPointerGetAttribute fails: CUDA_ERROR_INVALID_VALUE"),
    ],
)
def test_what_is_no_array_on_a_gpu_is_refused(cuda: FakeCuda, value: Any, words: str) -> None:
    with pytest.raises(GantkError, match=words):
        view(value, "x", Stream())


def test_a_producer_that_refuses_is_quoted(cuda: FakeCuda) -> None:
    def refuse(**_: Any) -> None:
        raise BufferError("Can't export tensors that require gradient, use tensor.detach()")

    given = SimpleNamespace(__dlpack__=refuse, __dlpack_device__=lambda: (dlpack.CUDA, 0))
    with pytest.raises(GantkError, match=r"x cannot be seen as an array: .*use tensor\.detach"):
        view(given, "x", Stream())


class Protocol:
    def __init__(self, handle: int) -> None:
        self.handle = handle

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self.handle


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (None, 1),
        (0, 1),
        (1, 1),
        (2, 2),
        (OURS, OURS),
        (Protocol(OURS), OURS),
        (Protocol(0), 1),
        (SimpleNamespace(cuda_stream=OURS), OURS),  # torch
        (SimpleNamespace(cuda_stream=0), 1),
        (SimpleNamespace(ptr=OURS), OURS),  # CuPy
        (SimpleNamespace(handle=OURS), OURS),  # pycuda
    ],
)
def test_streams_of_all_libraries_have_a_handle(stream: Any, handle: int) -> None:
    assert Stream.of(stream).handle == handle
    assert stream is None or Stream.of(stream).owner is stream


@pytest.mark.parametrize("stream", ["default", -1, True, 1.0, object()])
def test_what_is_no_stream_is_refused(stream: Any) -> None:
    with pytest.raises(GantkError, match="a CUDA stream or its handle is wanted"):
        Stream.of(stream)


# What goes out.


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numpy_arrays_go_to_the_gpu_and_back(cuda: FakeCuda, dtype: Any) -> None:
    given = np.arange(24).reshape(2, 3, 4).astype(dtype)
    array = to_device(given.transpose(2, 0, 1), stream=OURS)
    np.testing.assert_array_equal(array.numpy(), given.transpose(2, 0, 1))
    assert array.numpy().dtype == dtype
    assert ("cuStreamSynchronize", (OURS,)) in cuda.calls
    turned = DeviceArray(gpu(0), (1, 2, 3, 2), "float32", Stream(), strides=(12, 1, 4, 2))
    cuda.memory.write(turned.view("x").address, np.arange(12, dtype=np.float32).tobytes())
    wanted = np.arange(12).reshape(1, 3, 2, 2).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(turned.numpy(), wanted)


@pytest.mark.parametrize("given", [np.zeros(0, np.float32), np.zeros(3, np.int32), np.zeros(3)])
def test_arrays_that_no_kernel_takes_do_not_go_to_the_gpu(cuda: FakeCuda, given: Any) -> None:
    with pytest.raises(GantkError, match="some elements of float32, float16, bfloat16 are wanted"):
        to_device(given)


def test_our_arrays_are_seen_through_both_protocols(cuda: FakeCuda) -> None:
    for dtype in (np.float32, np.float16, ml_dtypes.bfloat16):
        array = to_device(np.zeros((2, 3), dtype), device=1)
        own = array.view("x")
        for versioned in (True, False):
            one = SimpleNamespace(
                __dlpack_device__=array.__dlpack_device__,
                __dlpack__=lambda stream, array=array, **asked: array.__dlpack__(stream=stream, **asked),
            )
            if not versioned:
                one.__dlpack__ = lambda stream, array=array: array.__dlpack__(stream=stream)
            found = view(one, "x", Stream())
            assert (found.address, found.shape, found.strides) == (own.address, own.shape, own.strides)
            assert (found.dtype, found.item_bytes, found.ordinal) == (own.dtype, own.item_bytes, 1)
        if dtype == ml_dtypes.bfloat16:
            assert not hasattr(array, "__cuda_array_interface__")
            continue
        found = view(Interface(**array.__cuda_array_interface__), "x", Stream())
        assert (found.address, found.shape, found.strides) == (own.address, own.shape, own.strides)
        assert (found.dtype, found.ordinal) == (own.dtype, 1)


def test_a_real_consumer_takes_our_capsules(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    """numpy, which takes memory of the CPU alone: what the fake GPU's memory is, once it is called so."""
    monkeypatch.setattr(dlpack, "CUDA", 1)
    given = np.arange(6, dtype=np.float32).reshape(2, 3)
    array = to_device(given)
    alive = weakref.ref(array)
    taken = np.from_dlpack(array)
    np.testing.assert_array_equal(taken, given)
    del array
    assert alive() is not None
    assert len(cuda.allocated) == 1
    np.testing.assert_array_equal(taken, given)
    del taken
    assert alive() is None
    assert cuda.allocated == {}


def test_a_consumer_may_let_go_from_another_thread(cuda: FakeCuda) -> None:
    array = to_device(np.zeros(4, np.float32))
    capsules = [array.__dlpack__(stream=-1) for _ in range(3)]
    del array
    assert len(cuda.allocated) == 1
    thread = threading.Thread(target=capsules.clear)
    thread.start()
    thread.join()
    assert cuda.allocated == {}
    assert dlpack._held == {}


@pytest.mark.parametrize(
    ("consumer", "waits"),
    [(None, [(1, OURS)]), (1, [(1, OURS)]), (OURS, []), (-1, []), (THEIRS, [(THEIRS, OURS)])],
)
def test_a_consumers_stream_waits_for_ours(
    cuda: FakeCuda, consumer: int | None, waits: list[tuple[int, int]]
) -> None:
    array = to_device(np.zeros(4, np.float32), stream=OURS)
    array.__dlpack__(stream=consumer)
    assert cuda.waits == waits
    del array
    # What another stream may still read is not given back in the order of ours; who sees to the order does not say
    # which it is.
    assert cuda.count("cuCtxSynchronize") == (consumer != OURS)
    assert cuda.calls[-1][0] in ("cuMemFreeAsync", "cuCtxPopCurrent")


def test_what_is_not_offered_is_refused(cuda: FakeCuda) -> None:
    array = to_device(np.zeros(4, np.float32))
    array.__dlpack__(dl_device=(dlpack.CUDA, 0), copy=False)
    for asked in ({"copy": True}, {"dl_device": (1, 0)}, {"dl_device": (dlpack.CUDA, 1)}):
        with pytest.raises(BufferError, match="as it is, where it is"):
            array.__dlpack__(**asked)


def test_memory_goes_back_in_the_order_of_its_stream(install: Callable[..., FakeCuda]) -> None:
    cuda = install(memory=FakeMemory())
    memory = Memory(gpu(0), 100, Stream(OURS))
    address = memory.address
    del memory
    names = [name for name, _ in cuda.calls]
    assert ("cuMemAllocAsync", (100, OURS)) in cuda.calls
    assert ("cuMemFreeAsync", (address, OURS)) in cuda.calls
    assert "cuCtxSynchronize" not in names


def test_a_gpu_without_pools_allocates_at_once(install: Callable[..., FakeCuda]) -> None:
    cuda = install(memory=FakeMemory(), gpus=(FakeGPU(pools=False),))
    memory = Memory(gpu(0), 100, Stream(OURS))
    del memory
    assert (cuda.count("cuMemAlloc"), cuda.count("cuMemFree")) == (1, 1)
    assert (cuda.count("cuMemAllocAsync"), cuda.count("cuMemFreeAsync")) == (0, 0)


def test_memory_that_is_not_there_is_missed_in_words(cuda: FakeCuda) -> None:
    with cuda.failing("cuMemAllocAsync"), pytest.raises(GantkError) as missing:
        to_device(np.zeros(2**19, np.float32), device=1)
    assert "cuMemAllocAsync fails: CUDA_ERROR_OUT_OF_MEMORY (words for 2)" in str(missing.value)
    assert missing.value.where == "2.0 MiB on GPU 1"
    assert missing.value.hint is not None


def test_a_gpu_that_has_failed_does_not_fail_again_at_the_end(cuda: FakeCuda) -> None:
    memory = Memory(gpu(0), 100, Stream())
    address = memory.address
    with cuda.failing("cuMemFreeAsync", "CUDA_ERROR_ILLEGAL_ADDRESS"):
        del memory
    assert list(cuda.allocated) == [address]
    cuda.allocated.clear()


def test_everybodys_context_is_left_as_it_was(cuda: FakeCuda) -> None:
    one, other = gpu(0), gpu(1)
    with one.current():
        before = len(cuda.contexts)
        memory = Memory(one, 64, Stream())
        assert cuda.count("cuCtxPushCurrent") == 1  # It was current.
        with pytest.raises(GantkError), cuda.failing("cuMemAllocAsync"):
            Memory(other, 64, Stream())
        assert len(cuda.contexts) == before
        del memory
    assert cuda.contexts == []

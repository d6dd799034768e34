# SPDX-License-Identifier: Apache-2.0
"""What goes wrong in the functions of `gantk.kernels`, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gantk import kernels
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.kernels import device, driver, launcher
from gantk.kernels.driver import DriverError
from gantk.runtime.driver import Driver

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, FakeGPU
from fake_memory import FakeMemory
from function_arguments import Claimed, Laid
from function_references import numbers

STREAM = 0x5000


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=str)
def test_every_call_of_the_driver_may_fail(
    install: Callable[..., FakeCuda], capability: tuple[int, int]
) -> None:
    """Each function in turn: an error in words, nothing leaks, and the next try works."""
    cuda = install(memory=FakeMemory(1 << 25), gpus=(FakeGPU(capability),))
    features = kernels.to_device(numbers(1, 130, 8, 9), stream=0x6000)
    target, grad = kernels.to_device(numbers(130, 130)), kernels.to_device(numbers(1, 130, 130))

    def work() -> list[str]:
        cuda.calls.clear()
        kernels.style_loss([features], [target], [1.0], with_gradient=True, stream=STREAM)
        kernels.gram_matrix_grad(grad, features, stream=STREAM).numpy()
        return [name for name, _ in cuda.calls]

    def forget() -> None:
        device._gpus.clear()
        launcher._libraries.clear()
        launcher._kernels.clear()
        for ordinal in cuda.retained:  # The references are forgotten, the context stays.
            cuda.retained[ordinal] = 0

    forget()
    wanted = work()
    functions = sorted(set(wanted))
    assert len(functions) >= 18
    held = dict(cuda.allocated)
    for function in functions:
        forget()
        with cuda.failing(function, "CUDA_ERROR_UNKNOWN"):
            try:
                work()
            except DriverError as failed:
                assert failed.status == "CUDA_ERROR_UNKNOWN"
                assert function in failed.what
            else:
                assert function == "cuMemFreeAsync"
        if function == "cuMemFreeAsync":  # What cannot be given back is lost.
            for address in set(cuda.allocated) - set(held):
                del cuda.allocated[address]
        # What the driver did not let us undo.
        cuda.contexts.clear()
        cuda.events.clear()
        cuda.relaxed = False
        assert cuda.allocated == held, function
        forget()
        assert work() == wanted


@pytest.mark.parametrize("function", ["cuMemAllocAsync", "cuLaunchKernel", "cuLibraryLoadData"])
def test_an_error_says_what_failed_and_what_to_do(cuda: FakeCuda, function: str) -> None:
    features = kernels.to_device(numbers(1, 40, 8, 9))
    status = {
        "cuMemAllocAsync": "CUDA_ERROR_OUT_OF_MEMORY",
        "cuLaunchKernel": "CUDA_ERROR_ILLEGAL_ADDRESS",
        "cuLibraryLoadData": "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
    }[function]
    with (
        cuda.failing(function, status),
        pytest.raises(DriverError, match=f"{function} fails: {status}") as failed,
    ):
        kernels.gram_matrix(features)
    assert failed.value.where
    assert failed.value.hint


def test_a_driver_before_cuda_12_is_told_so(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: Any) -> None:
        raise RuntimeError('Function "cuLibraryLoadData" not found')

    features = kernels.to_device(numbers(1, 4, 3, 3))
    monkeypatch.setattr(cuda, "_cuLibraryLoadData", lost)
    with pytest.raises(GantkError, match="the NVIDIA driver has no cuLibraryLoadData") as old:
        kernels.gram_matrix(features)
    assert "CUDA 12" in str(old.value.hint)


def test_a_machine_without_a_driver_is_told_so(cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch) -> None:
    features = kernels.to_device(numbers(1, 4, 3, 3))
    device._gpus.clear()
    monkeypatch.setattr(
        driver, "probe", lambda: Driver(works=False, reason="no NVIDIA driver: it is not there")
    )
    with pytest.raises(BackendMissingError, match="the kernels need an NVIDIA GPU: no NVIDIA driver"):
        kernels.gram_matrix(features)


def test_a_gpu_that_is_too_old_is_refused(interpreted: Callable[..., FakeCuda]) -> None:
    interpreted(gpus=(FakeGPU((7, 0)),))
    with pytest.raises(GantkError, match=r"compute capability 7\.0; the kernels are for 7\.5"):
        kernels.to_device(numbers(1, 4, 3, 3))


GRAM = "gram_matrix"
TV = "total_variation"


@pytest.mark.parametrize(
    ("function", "given", "words"),
    [
        (GRAM, Claimed((0, 4, 3, 3), address=0), r"shape \[0, 4, 9\]"),
        (GRAM, Claimed((1, 0, 3), address=0), r"shape \[1, 0, 3\]"),
        (GRAM, Claimed((1, 4, 0, 3), address=0), r"shape \[1, 4, 0\]"),
        (GRAM, Claimed((4, 3)), r"features have shape \[4, 3\]"),
        (
            GRAM,
            Claimed((1, 4, 9), "<f8"),
            "features are float64; the kernels take float32, float16, bfloat16",
        ),
        (GRAM, Claimed((1, 4, 9), "<i4"), "features are int32"),
        (GRAM, Claimed((1, 4, 9), ">f4"), "features are numpy type >f4"),
        (GRAM, Claimed((1, 70000, 9)), "70000 channels; at most 65536"),
        (GRAM, Claimed((1, 4, 9), address=(1 << 20) + 2), "aligned to 2 bytes; at least 4"),
        (GRAM, Claimed((1, 4, 3, 3), strides=(400, 100, -12, -4)), "none may be negative"),
        (GRAM, Claimed((1, 4, 3, 3), strides=(400, 100, 16, 4)), "rows must follow each other without gaps"),
        (TV, Claimed((1, 3, 4)), r"pictures have shape \[1, 3, 4\]; N x C x H x W"),
        (TV, Claimed((1, 3, 0, 4), address=0), r"shape \[1, 3, 0, 4\]"),
        (TV, Claimed((1, 3, 4, 4), "<f8"), "pictures are float64"),
        (TV, Claimed((2**20, 2**20, 2**10, 2**10)), r"span more than 2\^48 elements"),
    ],
)
def test_arrays_that_the_kernels_do_not_take_are_refused(
    cuda: FakeCuda, function: str, given: Any, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuda.memory, "owner", lambda *_: 0)
    with pytest.raises(GantkError, match=words):
        getattr(kernels, function)(given)
    assert cuda.count("cuLaunchKernel") == 0


def test_kinds_and_eps_are_checked(cuda: FakeCuda) -> None:
    pictures = kernels.to_device(numbers(1, 1, 4, 4))
    with pytest.raises(UsageError, match="'l3'; allowed are l1, l2, isotropic"):
        kernels.total_variation(pictures, "l3")
    for eps in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(UsageError, match="a number above 0 is wanted"):
            kernels.total_variation(pictures, "isotropic", eps)


def test_results_that_do_not_fit_are_refused(interpreted: Callable[..., FakeCuda]) -> None:
    cuda = interpreted(gpus=(FakeGPU(), FakeGPU()))
    features = kernels.to_device(numbers(2, 4, 4, 4))
    address = features.view("x").address
    read_only = Laid(cuda, numbers(2, 4, 4), (0, 1, 2))
    read_only.__cuda_array_interface__["data"] = (read_only.__cuda_array_interface__["data"][0], True)
    for out, words in (
        (
            kernels.to_device(numbers(2, 4, 5)),
            r"out is float32\[2, 4, 5\]; float32\[2, 4, 4\] is written there",
        ),
        (kernels.to_device(numbers(2, 4, 4, dtype=np.float16)), r"out is float16\[2, 4, 4\]"),
        (Laid(cuda, numbers(2, 4, 4), (0, 2, 1)), r"strides \[16, 1, 4\]; a contiguous array is wanted"),
        (read_only, "out is read-only"),
        (kernels.to_device(numbers(2, 4, 4), device=1), "out is on GPU 1, features on GPU 0"),
        (Claimed((2, 4, 4), address=address + 64), "out and features share memory"),
        (numbers(2, 4, 4), "out is a ndarray outside of GPU memory"),
    ):
        with pytest.raises(GantkError, match=words):
            kernels.gram_matrix(features, out=out)
    with pytest.raises(GantkError, match="out is a DeviceArray; a pair is wanted"):
        kernels.total_variation(features, with_gradient=True, out=features)
    assert cuda.count("cuLaunchKernel") == 0


def test_what_does_not_go_together_is_refused(interpreted: Callable[..., FakeCuda]) -> None:
    cuda = interpreted(gpus=(FakeGPU(), FakeGPU()))
    one, two = kernels.to_device(numbers(1, 4, 4, 4)), kernels.to_device(numbers(2, 4, 4, 4))
    target = kernels.to_device(numbers(4, 4))
    for layers, targets, weights, words in (
        ([], [], [], "0 layers, 0 targets"),
        ([one], [target], [], "1 layers, 1 targets or results and 0 weights"),
        ([one, two], [target, target], [1.0, 1.0], "layers are of 1 and of 2 pictures"),
        ([one], [kernels.to_device(numbers(5, 5))], [1.0], r"targets\[0\]: float32\[5, 5\]"),
        (
            [one],
            [kernels.to_device(numbers(4, 4, dtype=np.float16))],
            [1.0],
            r"targets\[0\]: float16\[4, 4\]",
        ),
        ([one], [Laid(cuda, numbers(4, 4), (1, 0))], [1.0], r"strides \[1, 4\]; a contiguous"),
        ([one], [kernels.to_device(numbers(4, 4), device=1)], [1.0], r"targets\[0\] on GPU 1"),
        ([one] * 9, [target] * 9, [1.0] * 9, "there are 9 layers; 1 to 8"),
    ):
        with pytest.raises(GantkError, match=words):
            kernels.style_loss(layers, targets, weights)
    with pytest.raises(GantkError, match=r"grad: float32\[1, 4, 5\] does not belong to features"):
        kernels.gram_matrix_grad(kernels.to_device(numbers(1, 4, 5)), one)
    with pytest.raises(GantkError, match="share memory"):
        out = kernels.to_device(numbers(1, 4, 4, 4))
        kernels.style_loss([one, one], [target] * 2, [1.0] * 2, with_gradient=True, out=(None, [out, out]))
    assert cuda.count("cuLaunchKernel") == 0


def test_a_workspace_that_does_not_do_is_refused(interpreted: Callable[..., FakeCuda]) -> None:
    cuda = interpreted(gpus=(FakeGPU(), FakeGPU()))
    features = kernels.to_device(numbers(1, 40, 8, 9))
    room = np.zeros(2**16, np.float32)
    for workspace, words in (
        (Laid(cuda, room, (0,), offset=16), "begin at a multiple of 256 bytes"),
        (Laid(cuda, room.reshape(2, -1), (1, 0)), "must be contiguous"),
        (kernels.to_device(room, device=1), "the workspace is on GPU 1; GPU 0 does the work"),
    ):
        with pytest.raises(GantkError, match=words):
            kernels.gram_matrix(features, workspace=workspace)
    assert cuda.count("cuLaunchKernel") == 0

# SPDX-License-Identifier: Apache-2.0
"""`gantk.kernels` from call to result: front end, plan, parameters and real PTX, against float64, without a GPU."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gantk import kernels
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.kernels import device, driver, launcher
from gantk.kernels.driver import DriverError
from gantk.runtime import dlpack
from gantk.runtime.driver import Driver

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, FakeGPU
from fake_memory import FakeMemory

STREAM = 0x5000
Array = np.ndarray[Any, Any]

# Relative to the largest value. Results are rounded to their type once.
ROUNDING = {np.float32: 2e-6, np.float16: 6e-4, ml_dtypes.bfloat16: 5e-3}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=lambda dtype: np.dtype(dtype).name)


@pytest.fixture
def cuda(interpreted: Callable[..., FakeCuda]) -> FakeCuda:
    return interpreted()


def numbers(*shape: int, dtype: Any = np.float32) -> Array:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(dtype)


def error(found: Array, wanted: Array) -> float:
    assert found.shape == wanted.shape
    return float(abs(found.astype(np.float64) - wanted).max() / abs(wanted).max())


def flat(features: Array) -> Array:
    return features.astype(np.float64).reshape(*features.shape[:2], -1)


def gram(features: Array, scale: float | None = None) -> Array:
    f = flat(features)
    return f @ f.transpose(0, 2, 1) * (1 / f.shape[2] if scale is None else scale)


def gram_slope(outer: Array, features: Array, scale: float | None = None) -> Array:
    f = flat(features)
    both = outer.astype(np.float64) + outer.astype(np.float64).transpose(0, 2, 1)
    return (both @ f * (1 / f.shape[2] if scale is None else scale)).reshape(features.shape)


def variation(pictures: Array, kind: str, eps: float) -> tuple[Array, Array]:
    """Values and gradients in float64."""
    x = pictures.astype(np.float64)
    dx, dy = np.zeros_like(x), np.zeros_like(x)
    dx[..., :-1], dy[:, :, :-1] = np.diff(x, axis=3), np.diff(x, axis=2)
    if kind == "l1":
        terms, by_dx, by_dy = abs(dx) + abs(dy), np.sign(dx), np.sign(dy)
    elif kind == "l2":
        terms, by_dx, by_dy = dx**2 + dy**2, 2 * dx, 2 * dy
    else:
        terms = np.sqrt(dx**2 + dy**2 + eps)
        by_dx, by_dy = dx / terms, dy / terms
    gradient = -by_dx - by_dy
    gradient[..., 1:] += by_dx[..., :-1]
    gradient[:, :, 1:] += by_dy[:, :, :-1]
    return terms.sum((1, 2, 3)), gradient


class Laid:
    """An array on the fake GPU with other strides than those of C, or at another offset, through the interface.

    Args:
        values: What it holds.
        order: The axes, outermost first, as they lie in memory.
        offset: Of its first element from a multiple of 256, in bytes.
    """

    def __init__(self, cuda: FakeCuda, values: Array, order: tuple[int, ...], offset: int = 0) -> None:
        stored = np.ascontiguousarray(values.transpose(order))
        room = -(-(stored.nbytes + offset) // 4)
        self.kept = kernels.to_device(np.zeros(room, np.float32))
        address = self.kept.view("kept").address + offset
        cuda.memory.write(address, stored.tobytes())
        strides = [0] * values.ndim
        for axis, stride in zip(order, stored.strides, strict=True):
            strides[axis] = stride
        name = f"<{'f' if values.dtype != ml_dtypes.bfloat16 else 'V'}{values.itemsize}"
        self.__cuda_array_interface__ = {
            "version": 3, "shape": values.shape, "typestr": name, "data": (address, False), "strides": tuple(strides),
        }  # fmt: skip


# Values.


@DTYPES
@pytest.mark.parametrize("shape", [(2, 5, 3, 7), (1, 70, 9, 8), (3, 1, 1, 1)], ids=str)
def test_gram_matrices(cuda: FakeCuda, dtype: Any, shape: tuple[int, ...]) -> None:
    given = numbers(*shape, dtype=dtype)
    features = kernels.to_device(given)
    assert error(kernels.gram_matrix(features).numpy(), gram(given)) < 2e-6
    scaled = kernels.gram_matrix(features, 0.25)
    assert scaled.dtype == "float32"
    assert error(scaled.numpy(), gram(given, 0.25)) < 2e-6


def test_gram_matrices_of_other_layouts(cuda: FakeCuda) -> None:
    given = numbers(2, 6, 5, 8)
    wanted = gram(given)
    for laid in (
        Laid(cuda, given, (0, 2, 3, 1)),  # Channels last.
        Laid(cuda, given, (0, 1, 2, 3), offset=4),
        Laid(cuda, given, (1, 0, 2, 3)),  # Pictures within channels.
        Laid(cuda, given.reshape(2, 6, 40), (0, 2, 1), offset=12),
    ):
        assert error(kernels.gram_matrix(laid).numpy(), wanted) < 2e-6


def test_tf32_is_chosen_by_its_name(cuda: FakeCuda) -> None:
    given = numbers(1, 16, 8, 16)
    features = kernels.to_device(given)
    exact = error(kernels.gram_matrix(features).numpy(), gram(given))
    rounded = error(kernels.gram_matrix(features, precision="tf32").numpy(), gram(given))
    assert exact < 2e-6 < rounded < 2e-3
    with pytest.raises(UsageError, match="the precision is 'fp8'; allowed are exact, tf32"):
        kernels.gram_matrix(features, precision="fp8")


@DTYPES
def test_gradients_of_gram_matrices(cuda: FakeCuda, dtype: Any) -> None:
    given, outer = numbers(2, 5, 4, 6, dtype=dtype), numbers(2, 5, 5)
    features = kernels.to_device(given)
    found = kernels.gram_matrix_grad(kernels.to_device(outer), features)
    assert found.dtype == np.dtype(dtype).name
    assert error(found.numpy(), gram_slope(outer, given)) < ROUNDING[dtype]
    turned = Laid(cuda, outer, (0, 2, 1))
    found = kernels.gram_matrix_grad(turned, features, 0.5)
    assert error(found.numpy(), gram_slope(outer, given, 0.5)) < ROUNDING[dtype]


def test_gradients_are_channels_last_where_the_features_are(cuda: FakeCuda) -> None:
    given, outer = numbers(2, 5, 4, 6), numbers(2, 5, 5)
    found = kernels.gram_matrix_grad(kernels.to_device(outer), Laid(cuda, given, (0, 2, 3, 1)))
    assert found.strides == (120, 1, 30, 5)
    assert error(found.numpy(), gram_slope(outer, given)) < 2e-6


def style(layers: list[Array], targets: list[Array], weights: list[float]) -> tuple[Array, list[Array]]:
    loss, gradients = np.zeros(len(layers[0])), []
    for layer, target, weight in zip(layers, targets, weights, strict=True):
        difference = gram(layer) - target
        loss += weight * (difference**2).mean((1, 2))
        gradients.append(gram_slope(2 * weight * difference / difference[0].size, layer))
    return loss, gradients


@DTYPES
def test_style_losses(cuda: FakeCuda, dtype: Any) -> None:
    layers = [numbers(2, c, h, w, dtype=dtype) for c, h, w in ((3, 9, 7), (9, 4, 3), (5, 1, 1))]
    targets = [numbers(2, 3, 3), numbers(9, 9), numbers(1, 5, 5)]  # Of each picture, of one style, of one.
    weights = [1.0, 0.25, 3.0]
    wanted, slopes = style(layers, targets, weights)
    given = [kernels.to_device(layer) for layer in layers]
    aims = [kernels.to_device(target) for target in targets]
    alone = kernels.style_loss(given, aims, weights)
    np.testing.assert_allclose(alone.numpy(), wanted, rtol=1e-5)
    loss, gradients = kernels.style_loss(given, aims, weights, with_gradient=True)
    np.testing.assert_array_equal(loss.numpy(), alone.numpy())
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert gradient.dtype == np.dtype(dtype).name
        assert error(gradient.numpy(), slope) < max(ROUNDING[dtype], 1e-5)


@DTYPES
@pytest.mark.parametrize("kind", ["l1", "l2", "isotropic"])
def test_total_variations(cuda: FakeCuda, kind: str, dtype: Any) -> None:
    given = numbers(2, 3, 7, 9, dtype=dtype)
    value, gradient = variation(given, kind, 1e-4)
    pictures = kernels.to_device(given)
    found, slope = kernels.total_variation(pictures, kind, 1e-4, with_gradient=True)
    np.testing.assert_allclose(found.numpy(), value, rtol=1e-5)
    assert error(slope.numpy(), gradient) < max(ROUNDING[dtype], 1e-5)
    np.testing.assert_array_equal(kernels.total_variation(pictures, kind, 1e-4).numpy(), found.numpy())


def test_total_variations_of_other_layouts(cuda: FakeCuda) -> None:
    given = numbers(2, 3, 6, 8)
    value, gradient = variation(given, "l2", 1e-8)
    for order, offset in (((0, 2, 3, 1), 0), ((0, 1, 3, 2), 4), ((0, 1, 2, 3), 8)):
        laid = Laid(cuda, given, order, offset)
        found, slope = kernels.total_variation(laid, "l2", with_gradient=True)
        np.testing.assert_allclose(found.numpy(), value, rtol=1e-5)
        assert error(slope.numpy(), gradient) < 1e-5
        assert slope.strides == ((144, 1, 24, 3) if order == (0, 2, 3, 1) else (144, 48, 8, 1))


@pytest.mark.parametrize("capability", [(7, 5), (12, 0)], ids=str)
def test_other_architectures(interpreted: Callable[..., FakeCuda], capability: tuple[int, int]) -> None:
    cuda = interpreted(gpus=(FakeGPU(capability, multiprocessors=2, shared_bytes=64 * 1024),))
    given = numbers(1, 9, 8, 8, dtype=np.float16)
    assert error(kernels.gram_matrix(kernels.to_device(given)).numpy(), gram(given)) < 2e-6
    assert {code.target for code in cuda.libraries.values()} == {f"sm_{capability[0]}{capability[1]}"}


def test_a_gpu_of_a_family_not_known_yet_gets_ptx(install: Callable[..., FakeCuda]) -> None:
    cuda = install(memory=FakeMemory(), gpus=(FakeGPU((11, 0)),))
    kernels.gram_matrix(kernels.to_device(numbers(1, 9, 8, 8)))
    assert {code.target for code in cuda.libraries.values()} == {"compute_100"}
    loaded = [arguments[0] for name, arguments in cuda.calls if name == "cuLibraryLoadData"]
    assert all(code.endswith(b"\0") for code in loaded)


def test_threads_share_what_is_loaded(install: Callable[..., FakeCuda]) -> None:
    """Eight at once on two GPUs: each piece of code is loaded once, each context retained once."""
    cuda = install(memory=FakeMemory(1 << 24), gpus=(FakeGPU(), FakeGPU()))
    begin = threading.Barrier(8)
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            begin.wait()
            features = kernels.to_device(numbers(1, 70, 8, 9), device=number % 2)
            grad = kernels.to_device(numbers(1, 70, 70), device=number % 2)
            for _ in range(5):
                kernels.gram_matrix(features)
                kernels.gram_matrix_grad(grad, features)
                kernels.total_variation(features)
        except BaseException as error_:
            failed.append(error_)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    units = [(code.unit, code.target) for code in cuda.libraries.values()]
    assert len(units) == len(set(units))
    assert cuda.count("cuLibraryGetKernel") == len(launcher._kernels)
    assert cuda.retained == {0: 1, 1: 1}
    assert cuda.count("cuLaunchKernel") >= 8 * 5 * 5


# What is given back, and where.


def test_results_go_where_out_says(cuda: FakeCuda) -> None:
    given, outer = numbers(2, 4, 3, 5), numbers(2, 4, 4)
    features, grad = kernels.to_device(given), kernels.to_device(outer)
    out = kernels.to_device(np.full((2, 4, 4), np.nan, np.float32))
    assert kernels.gram_matrix(features, out=out) is out
    assert error(out.numpy(), gram(given)) < 2e-6
    slope = Laid(cuda, np.full(given.shape, np.nan, np.float32), (0, 2, 3, 1))
    assert kernels.gram_matrix_grad(grad, features, out=slope) is slope
    stored = np.frombuffer(
        cuda.memory.read(slope.__cuda_array_interface__["data"][0], given.nbytes), np.float32
    )
    assert error(stored.reshape(2, 3, 5, 4).transpose(0, 3, 1, 2), gram_slope(outer, given)) < 2e-6
    value = kernels.to_device(np.full(2, np.nan, np.float32))
    found = kernels.total_variation(features, with_gradient=True, out=(value, None))
    assert found[0] is value
    np.testing.assert_allclose(value.numpy(), variation(given, "l1", 0)[0], rtol=1e-5)
    loss = kernels.to_device(np.full(2, np.nan, np.float32))
    into = kernels.to_device(np.full(given.shape, np.nan, np.float32))
    found = kernels.style_loss([features], [out], [1.0], with_gradient=True, out=(loss, [into]))
    assert found[0] is loss
    assert found[1][0] is into
    assert abs(loss.numpy()).max() < 1e-10  # Its own Gram matrix is the target.


def test_everything_happens_on_the_callers_stream(cuda: FakeCuda) -> None:
    features = kernels.to_device(numbers(2, 40, 8, 9), stream=STREAM)
    cuda.calls.clear()
    found = kernels.gram_matrix(features, stream=STREAM)
    streams = {
        name: arguments
        for name, arguments in cuda.calls
        if name.endswith("Async") or name == "cuLaunchKernel"
    }
    assert {"cuLaunchKernel", "cuMemAllocAsync", "cuMemFreeAsync"} <= set(streams)
    for name, arguments in cuda.calls:
        if name == "cuLaunchKernel":
            assert arguments[8] == STREAM
        if name.endswith("Async"):
            assert arguments[-1] == STREAM
    assert cuda.waits == []  # Nothing came from another stream.
    assert not {name for name, _ in cuda.calls} & {"cuCtxSynchronize", "cuStreamSynchronize", "cuMemAlloc"}
    assert found.__cuda_array_interface__["stream"] == STREAM
    del found


def test_our_stream_waits_for_the_producer(cuda: FakeCuda) -> None:
    features = kernels.to_device(numbers(1, 4, 3, 3), stream=0x6000)
    kernels.gram_matrix(features, stream=STREAM)
    assert cuda.waits == [(STREAM, 0x6000)]


def test_a_second_call_loads_and_asks_nothing_again(cuda: FakeCuda) -> None:
    features = kernels.to_device(numbers(1, 40, 8, 9))
    first = kernels.gram_matrix(features).numpy()
    cuda.calls.clear()
    found = kernels.gram_matrix(features)
    once = ("cuLibraryLoadData", "cuLibraryGetKernel", "cuKernelSetAttribute", "cuDevicePrimaryCtxRetain",
            "cuDeviceGetAttribute")  # fmt: skip
    assert [cuda.count(name) for name in once] == [0] * 5
    np.testing.assert_array_equal(found.numpy(), first)


def test_a_workspace_of_the_caller_is_used(cuda: FakeCuda) -> None:
    given = numbers(1, 40, 8, 9)
    features = kernels.to_device(given)
    small = kernels.to_device(np.zeros(16, np.float32))
    with pytest.raises(GantkError, match=r"the workspace has 64 bytes; at least \d+ are wanted") as error_:
        kernels.gram_matrix(features, workspace=small)
    wanted = int(str(error_.value).split("at least ")[1].split()[0])
    room = kernels.to_device(np.zeros(wanted // 4, np.float32))
    cuda.calls.clear()
    out = kernels.to_device(np.zeros((1, 40, 40), np.float32))
    before = cuda.count("cuMemAllocAsync")
    kernels.gram_matrix(features, workspace=room, out=out)
    assert cuda.count("cuMemAllocAsync") == before
    assert error(out.numpy(), gram(given)) < 2e-6


def test_nothing_is_forbidden_while_a_graph_is_captured(cuda: FakeCuda) -> None:
    given = numbers(1, 40, 8, 9)
    features, grad = kernels.to_device(given), kernels.to_device(numbers(1, 40, 40))
    out, slope = kernels.to_device(numbers(1, 40, 40)), kernels.to_device(given)
    value, room = kernels.to_device(np.zeros(1, np.float32)), kernels.to_device(np.zeros(2**17, np.float32))
    held = dict(cuda.allocated)
    cuda.capturing = True
    kernels.gram_matrix(features, out=out, workspace=room)  # It loads code, too.
    kernels.gram_matrix_grad(grad, features, out=slope, workspace=room)
    kernels.total_variation(features, out=value, workspace=room)
    for missing in ({"out": out}, {"workspace": room}, {}):
        with pytest.raises(GantkError, match="captured into a graph") as refused:
            kernels.gram_matrix(features, **missing)
        assert refused.value.hint == "give `out` and `workspace`, made before"
    cuda.capturing = False
    assert cuda.allocated == held
    assert error(out.numpy(), gram(given)) < 2e-6
    np.testing.assert_allclose(value.numpy(), variation(given, "l1", 0)[0], rtol=1e-5)


# What goes wrong.


def test_every_call_of_the_driver_may_fail(install: Callable[..., FakeCuda]) -> None:
    """Each function in turn: an error in words, nothing leaks, and the next try works."""
    cuda = install(memory=FakeMemory(1 << 25))
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


class Claimed:
    """An array that is as large as it says, without the memory for it."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str = "<f4", address: int = 1 << 20, **more: Any
    ) -> None:
        self.found = {"shape": shape, "typestr": dtype, "data": (address, False), "version": 3, **more}

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.found


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


def test_the_real_bindings_take_what_the_fake_was_given(cuda: FakeCuda) -> None:
    """All arguments of all calls, shown to the real module, which gets as far as missing the driver."""
    from cuda.bindings import driver as fake
    from fake_gpu import real

    assert fake is cuda
    features, target = (
        kernels.to_device(numbers(1, 200, 16, 16), stream=0x6000),
        kernels.to_device(numbers(200, 200)),
    )
    kernels.style_loss([features], [target], [1.0], with_gradient=True, stream=STREAM)
    with cuda.failing("cuMemAllocAsync"), pytest.raises(GantkError):
        kernels.gram_matrix(features)
    interface = features.__cuda_array_interface__
    kernels.gram_matrix(Claimed(**{"shape": interface["shape"], "address": interface["data"][0]})).numpy()
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        pass
    else:
        pytest.skip("there is a driver here, which would do what it is told")
    seen = set()
    for name, arguments in cuda.calls:
        with pytest.raises(RuntimeError, match="NVIDIA driver library"):
            getattr(real, name)(*arguments)
        seen.add(name)
    assert len(seen) >= 20
    assert dlpack._held == {}


@pytest.mark.parametrize("shape", [(1, 64, 16, 16), (2, 130, 8, 40)], ids=str)
def test_hopper_fetches_by_tensor_maps(interpreted: Callable[..., FakeCuda], shape: tuple[int, ...]) -> None:
    cuda = interpreted(gpus=(FakeGPU((9, 0), multiprocessors=2, shared_bytes=227 * 1024),))
    given = numbers(*shape, dtype=ml_dtypes.bfloat16)
    features = kernels.to_device(given)
    found = kernels.gram_matrix(features)
    assert error(found.numpy(), gram(given)) < 2e-6
    assert cuda.tensor_maps
    assert "gram_sm90" in {code.unit for code in cuda.libraries.values()}
    before = len(cuda.tensor_maps)
    np.testing.assert_array_equal(kernels.gram_matrix(features).numpy(), found.numpy())
    assert len(cuda.tensor_maps) == before  # Encoded once.
    words = "cuTensorMapEncodeTiled fails: CUDA_ERROR_INVALID_VALUE"
    again = kernels.to_device(given)
    with (
        cuda.failing("cuTensorMapEncodeTiled", "CUDA_ERROR_INVALID_VALUE"),
        pytest.raises(DriverError, match=words),
    ):
        kernels.gram_matrix(again)

# SPDX-License-Identifier: Apache-2.0
"""`gantk.kernels` from call to result: front end, plan, parameters and real PTX, against float64, without a GPU."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gantk import kernels
from gantk.errors import UsageError
from gantk.kernels import launcher
from gantk.kernels.driver import DriverError

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, FakeGPU
from fake_memory import FakeMemory
from function_arguments import Laid
from function_references import ROUNDING, error, gram, gram_slope, numbers, style
from judged import TRIALS

from variations import variation

STREAM = 0x5000
# Of what differs by the kernel alone, one case is run every time; the others are trials like those of the kernels.
DTYPES = pytest.mark.parametrize(
    "dtype",
    [pytest.param(dtype, marks=TRIALS if place else []) for place, dtype in enumerate(ROUNDING)],
    ids=lambda dtype: np.dtype(dtype).name,
)


def in_turn(values: Sequence[Any]) -> Any:
    """Types with values: each quickly once. All kernels of all types are in the tests of the kernels themselves."""
    return [
        pytest.param(dtype, value, marks=(TRIALS if place else []) if place == index else pytest.mark.slow)
        for place, dtype in enumerate(ROUNDING)
        for index, value in enumerate(values)
    ]


@pytest.mark.parametrize(("dtype", "shape"), in_turn([(2, 5, 3, 7), (1, 70, 9, 8), (3, 1, 1, 1)]), ids=str)
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


@pytest.mark.parametrize(("dtype", "kind"), in_turn(["l1", "l2", "isotropic"]), ids=str)
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


@pytest.mark.parametrize(
    "capability", [pytest.param(each, marks=TRIALS) for each in ((7, 5), (12, 0))], ids=str
)
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


@pytest.mark.parametrize(
    "shape", [pytest.param(each, marks=TRIALS) for each in ((1, 64, 16, 16), (2, 130, 8, 40))], ids=str
)
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

# SPDX-License-Identifier: Apache-2.0
"""The operators' kernels for CUDA tensors, without a GPU: the real PTX on tensors in the memory of a fake one."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from judged import TRIALS
from torch import Tensor

from gantk.errors import GantkError, UsageError
from gantk.kernels import device as devices
from gantk.kernels import driver
from gantk.ops import cuda as on_cuda
from gantk.ops import gram, style, variation
from gantk.runtime.driver import Driver

pytest.importorskip("cuda.bindings", reason="wants cuda-bindings")
from fake_gpu import FakeCuda, FakeGPU
from gpu_tensors import OnFakeGPU

pytestmark = TRIALS

STREAM = 0x5000
ROUNDING = {torch.float32: 2e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=str)


@pytest.fixture
def cuda(interpreted: Callable[..., FakeCuda], monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """A fake GPU that tensors of the CPU are taken to be on."""
    fake = interpreted()
    monkeypatch.setattr(on_cuda, "_gpu", lambda _: devices.gpu(0))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=STREAM))
    return fake


@pytest.fixture
def there(cuda: FakeCuda) -> OnFakeGPU:
    return OnFakeGPU(cuda.memory)


def numbers(*shape: int, dtype: Any = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)


def error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.double() - wanted).abs().max() / wanted.abs().max())


def layouts(given: Tensor) -> list[Tensor]:
    """Contiguous, channels last, rows with gaps between them, and turned."""
    wide = torch.stack([given, given], -1).flatten(-2)[..., ::2]
    rows = torch.cat([given, given], 3)[..., : given.shape[3]]
    turned = given.transpose(2, 3).contiguous().transpose(2, 3)
    return [given, given.to(memory_format=torch.channels_last), wide, rows, turned]


def told(operator: Any, *arguments: Any) -> Any:
    """What the operator tells a compiler about its result: shape, strides and type."""
    flat = torch.utils._pytree.tree_map_only(Tensor, lambda tensor: tensor.to("meta"), arguments)
    results = operator(*flat)
    every = results if isinstance(results, (list, tuple)) else [results]
    return [(tuple(result.shape), result.stride(), result.dtype) for result in every]


def facts(*results: Tensor) -> Any:
    return [(tuple(result.shape), result.stride(), result.dtype) for result in results]


@DTYPES
def test_gram_matrices_and_their_gradients(cuda: FakeCuda, there: OnFakeGPU, dtype: Any) -> None:
    exact, outer = numbers(2, 5, 4, 6), numbers(2, 5, 5)
    for laid, scale in zip(layouts(exact.to(dtype)), (None, 0.5, None, 0.5, 0.5), strict=True):
        features, grad = there.put(laid), there.put(outer.mT.contiguous().mT)
        with there:
            found = on_cuda.gram_matrix(features, scale)
            slope = on_cuda.gram_matrix_grad(grad, features, scale)
        assert facts(found) == told(gram.gram_matrix_op, laid, scale)
        assert facts(slope) == told(gram.gram_matrix_grad_op, outer, laid, scale)
        assert error(found, gram.gram_matrix_reference(laid.double(), scale)) < 2e-6
        wanted = gram.gram_matrix_grad_reference(outer.double(), laid.double(), scale)
        assert error(slope, wanted) < ROUNDING[dtype]


@DTYPES
def test_style_losses_and_their_gradients(cuda: FakeCuda, there: OnFakeGPU, dtype: Any) -> None:
    layers = [
        numbers(2, 3, 9, 7, dtype=dtype),
        numbers(2, 9, 4, 3, dtype=dtype),
        numbers(2, 5, 1, 1, dtype=dtype),
    ]
    targets, weights = [numbers(2, 3, 3), numbers(9, 9).T.double(), numbers(1, 5, 5)], [1.0, 0.25, 3.0]
    outer = torch.tensor([1.0, -2.0])
    given = [there.put(layer) for layer in layers]
    aims = [there.put(target) for target in targets]
    with there:
        loss, differences = on_cuda.style_loss(given, aims, weights)
        slopes = on_cuda.style_loss_grad(there.put(outer), given, differences, weights)
    assert facts(loss, differences) == told(style.style_loss_op, layers, targets, weights)
    assert facts(*slopes) == told(style.style_loss_grad_op, outer, layers, differences, weights)
    doubles = [layer.double() for layer in layers]
    wanted, apart = style.style_loss_reference(doubles, [each.double() for each in targets], weights)
    torch.testing.assert_close(loss.double(), wanted, rtol=1e-5, atol=0)
    assert error(differences, apart) < 1e-5
    gradients = style.style_loss_grad_reference(outer.double(), doubles, apart, weights)
    for slope, gradient in zip(slopes, gradients, strict=True):
        assert error(slope, gradient) < max(ROUNDING[dtype], 1e-5)


def variations() -> Iterator[Any]:
    """Kinds, types and every other layout from the first or the second: each pair of the three quickly."""
    for place, dtype in enumerate(ROUNDING):
        for index, kind in enumerate(variation.KINDS):
            for first in range(2):
                marks = pytest.mark.slow if (place + index + first) % 2 else ()
                yield pytest.param(dtype, kind, first, marks=marks)


@pytest.mark.parametrize(("dtype", "kind", "first"), list(variations()))
def test_total_variations_and_their_gradients(
    cuda: FakeCuda, there: OnFakeGPU, dtype: Any, kind: str, first: int
) -> None:
    for laid in layouts(numbers(2, 3, 6, 8, dtype=dtype))[first::2]:
        pictures = there.put(laid)
        with there:
            value, slope = on_cuda.total_variation(pictures, kind, 1e-4)
            alone, nothing = on_cuda.total_variation(pictures, kind, 1e-4, False)
        assert facts(value, slope) == told(variation.total_variation_op, laid, kind, 1e-4)
        assert nothing.numel() == 0
        torch.testing.assert_close(alone, value, rtol=0, atol=0)
        wanted, gradient = variation.total_variation_reference(laid.double(), kind, 1e-4)
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)
        assert error(slope, gradient) < max(ROUNDING[dtype], 1e-5)


def test_nothing_is_allocated_but_results_and_one_workspace(cuda: FakeCuda, there: OnFakeGPU) -> None:
    features, grad = there.put(numbers(1, 40, 8, 9)), there.put(numbers(1, 40, 40))
    target, upstream = there.put(numbers(40, 40)), there.put(torch.ones(1))
    differences = there.put(numbers(1, 1600))
    for work, results in (
        (lambda: on_cuda.gram_matrix(features), 1),
        (lambda: on_cuda.gram_matrix_grad(grad, features), 1),
        (lambda: on_cuda.style_loss([features], [target], [1.0]), 2),
        (lambda: on_cuda.style_loss_grad(upstream, [features], differences, [1.0]), 1),
        (lambda: on_cuda.total_variation(features), 2),
    ):
        there.made.clear()
        with there:
            work()
        assert len(there.made) <= results + 1
        assert sum(tensor.dtype == torch.uint8 for tensor in there.made) <= 1
    assert cuda.allocated == {}  # All of it is torch's.


def test_work_goes_on_torchs_current_stream_and_may_be_captured(cuda: FakeCuda, there: OnFakeGPU) -> None:
    features = there.put(numbers(1, 40, 8, 9))
    devices.gpu(0)
    cuda.capturing = True
    with there:
        on_cuda.gram_matrix(features)
        on_cuda.total_variation(features)
    cuda.capturing = False
    launched = [arguments for name, arguments in cuda.calls if name == "cuLaunchKernel"]
    assert len(launched) >= 4
    assert {arguments[8] for arguments in launched} == {STREAM}
    assert not {name for name, _ in cuda.calls if "Synchronize" in name or "Mem" in name or "Event" in name}


def test_torchs_own_setting_chooses_the_precision(cuda: FakeCuda, there: OnFakeGPU) -> None:
    features = there.put(numbers(1, 16, 8, 16))
    before = torch.get_float32_matmul_precision()
    try:
        for setting, precision in (("highest", "exact"), ("high", "tf32")):
            torch.set_float32_matmul_precision(setting)
            with there:
                found = on_cuda.gram_matrix(features)
            assert (error(found, gram.gram_matrix_reference(features.double())) < 2e-6) == (
                precision == "exact"
            )
    finally:
        torch.set_float32_matmul_precision(before)


def test_the_reference_does_what_no_kernel_takes(cuda: FakeCuda, there: OnFakeGPU) -> None:
    features = numbers(1, 4, 5, 6, dtype=torch.float64)
    grad, outer = numbers(1, 4, 4, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    assert on_cuda.gram_matrix(features).dtype == torch.float64
    assert on_cuda.gram_matrix_grad(grad, features).dtype == torch.float64
    loss, differences = on_cuda.style_loss([features], [grad[0]], [1.0])
    assert loss.dtype == torch.float64
    assert on_cuda.style_loss_grad(outer, [features], differences, [1.0])[0].dtype == torch.float64
    value, gradient = on_cuda.total_variation(features)
    assert value.dtype == gradient.dtype == torch.float64
    many = [numbers(1, 3, 4)] * 9
    targets = [numbers(3, 3)] * 9
    wanted = style.style_loss_reference(many, targets, [1.0] * 9)
    for found, other in zip(on_cuda.style_loss(many, targets, [1.0] * 9), wanted, strict=True):
        torch.testing.assert_close(found, other)
    assert cuda.count("cuLaunchKernel") == 0


@pytest.mark.parametrize(
    ("work", "words"),
    [
        (lambda: on_cuda.gram_matrix(torch.ones(3, 4)), r"shape \[3, 4\]"),
        (lambda: on_cuda.gram_matrix(torch.ones(0, 3, 4)), r"shape \[0, 3, 4\]"),
        (lambda: on_cuda.gram_matrix(torch.ones(1, 3, 4, dtype=torch.int32)), r"torch\.int32"),
        (lambda: on_cuda.gram_matrix_grad(torch.ones(1, 3, 3), torch.ones(2, 3, 4)), r"\[2, 3, 3\] belongs"),
        (lambda: on_cuda.style_loss([], [], []), "0 layers"),
        (lambda: on_cuda.total_variation(torch.ones(1, 1, 2, 2), "l3"), "'l3'; allowed"),
        (lambda: on_cuda.total_variation(torch.ones(1, 1, 2, 2), "isotropic", 0.0), "eps is 0"),
    ],
)
def test_what_is_wrong_is_refused_as_on_any_device(
    cuda: FakeCuda, work: Callable[[], Any], words: str
) -> None:
    with pytest.raises((GantkError, UsageError), match=words):
        work()
    assert cuda.count("cuLaunchKernel") == 0


def test_an_error_of_the_driver_is_not_hidden(cuda: FakeCuda, there: OnFakeGPU) -> None:
    features = there.put(numbers(1, 4, 5, 6))
    words = "cuLaunchKernel fails: CUDA_ERROR_ILLEGAL_ADDRESS"
    with (
        cuda.failing("cuLaunchKernel", "CUDA_ERROR_ILLEGAL_ADDRESS"),
        there,
        pytest.raises(GantkError, match=words),
    ):
        on_cuda.gram_matrix(features)


@pytest.fixture
def nothing_known() -> Iterator[None]:
    on_cuda._gpu.cache_clear()
    yield
    on_cuda._gpu.cache_clear()


@pytest.mark.usefixtures("nothing_known")
def test_a_machine_without_what_is_needed_is_told_so_once(
    install: Callable[..., FakeCuda], monkeypatch: pytest.MonkeyPatch
) -> None:
    install(memory=None)
    reason = "the NVIDIA driver does not start: cuInit gives CUDA_ERROR_NO_DEVICE"
    monkeypatch.setattr(driver, "probe", lambda: Driver(works=False, reason=reason))
    features = numbers(1, 4, 5, 6)
    with pytest.warns(
        RuntimeWarning, match="torch does their work, slower: .*CUDA_ERROR_NO_DEVICE; gantk doctor"
    ):
        found = on_cuda.gram_matrix(features)
    torch.testing.assert_close(found, gram.gram_matrix_reference(features))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        value, _ = on_cuda.total_variation(features)
        on_cuda.gram_matrix_grad(numbers(1, 4, 4), features)
    torch.testing.assert_close(value, variation.total_variation_reference(features)[0])


@pytest.mark.usefixtures("nothing_known")
def test_a_gpu_that_is_too_old_is_left_to_torch(install: Callable[..., FakeCuda]) -> None:
    install(memory=None, gpus=(FakeGPU((7, 0)),))
    with pytest.warns(RuntimeWarning, match=r"compute capability 7\.0; the kernels are for 7\.5"):
        assert on_cuda._gpu(0) is None


def test_the_dispatcher_has_the_kernels() -> None:
    for name in ("gram_matrix", "gram_matrix_grad", "style_loss", "style_loss_grad", "total_variation"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"gantk::{name}", "CUDA")

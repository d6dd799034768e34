# SPDX-License-Identifier: Apache-2.0
"""What only an NVIDIA GPU can show of the kernels; `pytest -m gpu`, small enough for compute-sanitizer.

`compute-sanitizer --tool memcheck --report-api-errors no python -m pytest -m gpu tests/kernels/test_on_gpu.py`, and
with the tools racecheck, initcheck and synccheck. Without that option, calls to `cuGetProcAddress` that fail when
`cuda-bindings` starts count as errors. It ran on one H100 (2026-11-26), not yet to its end under these tools.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hardware import linger
from torch import Tensor
from torch.library import opcheck

from gantk import kernels, ops
from gantk.kernels.device import gpu
from gantk.kernels.driver import bindings, call
from gantk.ops import gram, style, variation
from gantk.runtime.driver import probe

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not probe().works, reason=f"no GPU here: {probe().reason}"),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this PyTorch has no CUDA"),
]

EXACT, TF32 = 3e-6, 2e-3  # Relative to the largest value.
ROUNDING = {torch.float32: 3e-6, torch.float16: 6e-4, torch.bfloat16: 5e-3}
DTYPES = pytest.mark.parametrize("dtype", ROUNDING, ids=str)
SHAPES = pytest.mark.parametrize(
    "shape",
    [(1, 3, 5, 7), (2, 64, 16, 9), (1, 130, 13, 8), (3, 1, 1, 1), (2, 256, 32, 32), (1, 512, 24, 24)],
    ids=str,
)


def numbers(*shape: int, dtype: Any = torch.float32) -> Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype)


def error(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found.double().cpu() - wanted.cpu()).abs().max() / wanted.abs().max())


def layouts(given: Tensor) -> list[Tensor]:
    """Contiguous, channels last, rows with gaps between them, turned, and one element past 16 bytes."""
    shifted = torch.cat([given.new_zeros(1), given.flatten()])[1:].view(given.shape)
    return [
        given,
        given.to(memory_format=torch.channels_last),
        torch.cat([given, given], 3)[..., : given.shape[3]],
        given.transpose(2, 3).contiguous().transpose(2, 3),
        shifted,
    ]


@DTYPES
@SHAPES
def test_gram_matrices_and_their_gradients(dtype: Any, shape: tuple[int, ...]) -> None:
    outer = numbers(shape[0], shape[1], shape[1])
    for laid in layouts(numbers(*shape, dtype=dtype).cuda()):
        leaf = laid.detach().requires_grad_()
        found = ops.gram_matrix(leaf, 0.5)
        assert error(found.detach(), gram.gram_matrix_reference(laid.double(), 0.5)) < EXACT
        (slope,) = torch.autograd.grad(found, leaf, outer.cuda())
        wanted = gram.gram_matrix_grad_reference(outer.double().cuda(), laid.double(), 0.5)
        assert error(slope, wanted) < ROUNDING[dtype]


@SHAPES
def test_tf32_is_torchs_choice(shape: tuple[int, ...]) -> None:
    features = numbers(*shape).cuda()
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("high")
        found = ops.gram_matrix(features)
    finally:
        torch.set_float32_matmul_precision(before)
    assert error(found, gram.gram_matrix_reference(features.double())) < TF32


@DTYPES
def test_style_losses_and_their_gradients(dtype: Any) -> None:
    layers = [numbers(2, c, h, w, dtype=dtype).cuda() for c, h, w in ((64, 33, 20), (130, 9, 8), (5, 1, 1))]
    targets = [numbers(c, c).cuda() for c in (64, 130, 5)]
    weights = [1.0, 0.25, 3.0]
    leaves = [layer.detach().requires_grad_() for layer in layers]
    loss = ops.style_loss(leaves, targets, weights)
    doubles = [layer.double() for layer in layers]
    wanted, apart = style.style_loss_reference(doubles, [each.double() for each in targets], weights)
    torch.testing.assert_close(loss.detach().double(), wanted, rtol=1e-5, atol=0)
    outer = torch.tensor([1.0, -2.0]).cuda()
    slopes = torch.autograd.grad(loss, leaves, outer)
    gradients = style.style_loss_grad_reference(outer.double(), doubles, apart, weights)
    for slope, gradient in zip(slopes, gradients, strict=True):
        # What float16 rounds these to.
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert error(slope, gradient) < max(ROUNDING[dtype], 1e-5) + smallest / float(gradient.abs().max())


@DTYPES
@pytest.mark.parametrize("kind", variation.KINDS)
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 3, 130, 257), (1, 1, 1, 1), (1, 3, 256, 256)], ids=str)
def test_total_variations_and_their_gradients(dtype: Any, kind: str, shape: tuple[int, ...]) -> None:
    for laid in layouts(numbers(*shape, dtype=dtype).cuda()):
        leaf = laid.detach().requires_grad_()
        found = ops.total_variation(leaf, kind, 1e-4)
        wanted, gradient = variation.total_variation_reference(laid.double(), kind, 1e-4)
        torch.testing.assert_close(found.detach().double(), wanted, rtol=1e-5, atol=1e-12)
        (slope,) = torch.autograd.grad(found.sum(), leaf)
        assert float((slope.double() - gradient).abs().max()) <= 2e-2 * max(1.0, float(gradient.abs().max()))


def test_the_dispatcher_is_told_the_truth() -> None:
    target = numbers(66, 66).cuda()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        for laid in layouts(numbers(2, 66, 4, 6, dtype=dtype).cuda()):
            leaf = laid.detach().requires_grad_()
            opcheck(gram.gram_matrix_op, (leaf,))
            # Whole numbers, for one layout's kernel rounds this gradient to bfloat16 and another's does not.
            outer = numbers(2, 66, 66).mul(4).round().cuda().to(gram.sum_dtype(leaf))
            opcheck(gram.gram_matrix_grad_op, (outer, leaf, 0.5))
            opcheck(style.style_loss_op, ([leaf], [target], [2.0]))
            opcheck(variation.total_variation_op, (leaf, "l2"))


@pytest.fixture
def work() -> Callable[[], list[Tensor]]:
    """One of each operation, forward and backward."""
    features = numbers(2, 130, 24, 20).cuda().requires_grad_()
    target = numbers(130, 130).cuda()

    def run() -> list[Tensor]:
        loss = ops.style_loss([features], [target], [1.0]).sum() + ops.gram_matrix(features).square().sum()
        loss = loss + ops.total_variation(features).sum()
        return [loss.detach(), torch.autograd.grad(loss, features)[0]]

    return run


def test_the_same_bits_on_every_run(work: Callable[[], list[Tensor]]) -> None:
    first = work()
    for _ in range(20):
        for found, wanted in zip(work(), first, strict=True):
            assert torch.equal(found, wanted)


def test_streams_side_by_side(work: Callable[[], list[Tensor]]) -> None:
    wanted = work()
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in range(4)]
    found = []
    for _ in range(5):
        for stream in streams:
            with torch.cuda.stream(stream):
                found.append(work())
    torch.cuda.synchronize()
    for each in found:
        assert all(torch.equal(one, other) for one, other in zip(each, wanted, strict=True))


def test_threads_side_by_side(work: Callable[[], list[Tensor]]) -> None:
    wanted, found = work(), []

    def run() -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            found.append(work())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.cuda.synchronize()
    assert len(found) == 4
    for each in found:
        assert all(torch.equal(one, other) for one, other in zip(each, wanted, strict=True))


def test_a_graph_is_captured_and_replayed() -> None:
    features = numbers(2, 130, 24, 20).cuda()
    pictures = numbers(1, 3, 64, 64).cuda()
    target = numbers(130, 130).cuda()

    def run() -> list[Tensor]:
        loss, differences = style.style_loss_op([features], [target], [1.0])
        slopes = style.style_loss_grad_op(loss.new_ones(2), [features], differences, [1.0])
        return [loss, *slopes, *variation.total_variation_op(pictures)]

    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run()  # Loads the kernels.
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    for seed in range(3):
        features.copy_(numbers(2, 130, 24, 20) * (seed + 1))
        pictures.copy_(numbers(1, 3, 64, 64) * (seed + 1))
        graph.replay()
        torch.cuda.synchronize()
        found = [tensor.clone() for tensor in captured]
        for one, wanted in zip(found, run(), strict=True):
            assert torch.equal(one, wanted)


@pytest.mark.parametrize("lingers", [False, True], ids=["", "lingering"])
@pytest.mark.parametrize("is_captured", [False, True], ids=["stream", "graph"])
def test_launches_that_come_early_give_the_same_bits(
    is_captured: bool, lingers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many in a row, of sizes that fill the GPU and of some that do not, against launches in turn.

    Those that linger do their work 0.1 ms after the next may come.
    """
    here = gpu(torch.cuda.current_device())
    if not here.launches_early:
        pytest.skip("this GPU, or its driver, has no programmatic dependent launches")
    if lingers:
        linger(monkeypatch)
    layers = [numbers(2, c, side, side).cuda() for c, side in ((64, 256), (256, 64), (512, 32), (20, 7))]
    targets = [ops.gram_matrix(layer).mean(0) * 1.1 for layer in layers]
    leaves = [layer.requires_grad_() for layer in layers]
    pictures = [numbers(1, 3, side, side).cuda() for side in (8, 300, 1024)]

    def run() -> list[Tensor]:
        loss = ops.style_loss(leaves, targets, [1.0, 0.5, 0.25, 2.0])
        slopes = torch.autograd.grad(loss.sum(), leaves)
        grams = [ops.gram_matrix(leaf.detach()) for leaf in leaves]
        return [loss.detach(), *slopes, *grams, *(ops.total_variation(each) for each in pictures)]

    with monkeypatch.context() as patch:
        patch.setitem(here.__dict__, "launches_early", False)
        wanted = run()
    if is_captured:
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = run()
    for _ in range(100):
        if is_captured:
            graph.replay()
        found = [tensor.clone() for tensor in captured] if is_captured else run()
        assert all(map(torch.equal, found, wanted))


def test_a_first_call_may_be_captured() -> None:
    """Kernels that this process has not loaded yet: the SIMT path for features of few places."""
    features = numbers(1, 33, 3, 3).cuda()
    graph = torch.cuda.CUDAGraph()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        captured = ops.gram_matrix(features)
    graph.replay()
    torch.cuda.synchronize()
    assert error(captured, gram.gram_matrix_reference(features.double())) < EXACT


def test_a_graph_is_captured_without_torchs_operators() -> None:
    features = numbers(1, 130, 24, 20).cuda()
    out, room = torch.empty(1, 130, 130).cuda(), torch.empty(2**24, dtype=torch.uint8).cuda()
    graph, side = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.graph(graph, stream=side):
        kernels.gram_matrix(features, out=out, workspace=room, stream=side)
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(out, ops.gram_matrix(features))


def test_nothing_is_waited_for() -> None:
    """The host comes back while the GPU still sleeps ahead of the kernels."""
    features = numbers(2, 64, 64, 64).cuda()
    ops.gram_matrix(features)
    torch.cuda.synchronize()
    torch.cuda._sleep(2_000_000_000)
    done = torch.cuda.Event()
    ops.gram_matrix(features)
    ops.total_variation(features)
    done.record()
    assert not done.query()
    torch.cuda.synchronize()
    assert done.query()


def test_torch_compile_goes_through() -> None:
    features = numbers(2, 33, 12, 10).cuda().requires_grad_()

    def loss(leaf: Tensor) -> Tensor:
        return ops.gram_matrix(leaf * 2).square().sum() + ops.total_variation(leaf).sum()

    compiled = torch.compile(loss, fullgraph=True)
    torch.testing.assert_close(compiled(features), loss(features))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(features), features), torch.autograd.grad(loss(features), features)
    )


@DTYPES
def test_without_torch_arrays_go_both_ways(dtype: Any) -> None:
    features = numbers(2, 20, 8, 9, dtype=dtype).cuda()
    found = kernels.gram_matrix(features, stream=torch.cuda.current_stream())
    taken = torch.from_dlpack(found)
    assert taken.data_ptr() == found.view("x").address
    assert error(taken, gram.gram_matrix_reference(features.double())) < EXACT
    again = kernels.gram_matrix_grad(taken, features, out=torch.empty_like(features))
    assert torch.equal(again, ops.gram_matrix_grad(taken, features))
    interface = torch.as_tensor(found, device="cuda")
    assert torch.equal(interface, taken)
    del found
    torch.cuda.synchronize()
    assert error(taken, gram.gram_matrix_reference(features.double())) < EXACT


def test_memory_is_given_back() -> None:
    features = numbers(2, 256, 64, 64).cuda()
    for _ in range(3):
        kernels.gram_matrix(features)
    before = pooled_bytes()
    for _ in range(200):
        kernels.style_loss(
            [features], [torch.from_dlpack(kernels.gram_matrix(features))], [1.0], with_gradient=True
        )
    assert pooled_bytes() == before


def pooled_bytes() -> int:
    """What this process uses of its memory in the order of streams; other processes use the GPU too."""
    gc.collect()
    torch.cuda.synchronize()
    pool = call("cuDeviceGetDefaultMemPool", call("cuDeviceGet", 0))
    return int(
        call("cuMemPoolGetAttribute", pool, bindings().CUmemPool_attribute.CU_MEMPOOL_ATTR_USED_MEM_CURRENT)
    )

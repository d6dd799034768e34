# SPDX-License-Identifier: Apache-2.0
"""Gram matrices and their gradients against float64, in every type and layout, and through every compiler."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from gantk.errors import GantkError
from gantk.ops import gram_matrix, gram_matrix_grad
from gantk.ops.gram import gram_matrix_grad_op, gram_matrix_op
from gantk.ops.layout import sum_dtype

# Of what is returned, relative to its largest value. Halves are rounded once, in a gradient.
TOLERANCE = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}
GRADIENT = {torch.float64: 1e-14, torch.float32: 2e-6, torch.float16: 5e-4, torch.bfloat16: 4e-3}

# One strip and several, odd sizes, pictures of one place, several pictures.
SHAPES = [(1, 3, 5, 7), (2, 64, 4, 9), (1, 65, 3, 3), (3, 130, 1, 1), (2, 200, 13), (1, 1, 1)]


def features(shape: tuple[int, ...], dtype: torch.dtype = torch.float64, size: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return (torch.randn(shape, generator=rng, dtype=torch.float64) * size).to(dtype)


def reference(given: Tensor, scale: float | None = None) -> Tensor:
    flat = given.double().reshape(*given.shape[:2], -1)
    return torch.einsum("nck,ndk->ncd", flat, flat) * (1 / flat.shape[2] if scale is None else scale)


def error(found: Tensor, wanted: Tensor) -> float:
    return float((found.detach().double() - wanted).abs().max() / wanted.abs().max())


def layouts(given: Tensor) -> dict[str, Tensor]:
    found = {"contiguous": given, "every other": torch.stack([given, given], -1).flatten(-2)[..., ::2]}
    if given.ndim == 4:
        found["channels last"] = given.to(memory_format=torch.channels_last)
        found["turned"] = given.transpose(2, 3).contiguous().transpose(2, 3)
    return found


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_float64(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    given = features(shape, dtype)
    outer = features((shape[0], shape[1], shape[1]))  # Not symmetric.
    exact = given.double().requires_grad_()
    for scale in (None, 0.25):
        wanted = reference(exact, scale)
        (slope,) = torch.autograd.grad(wanted, exact, outer)
        for name, laid in layouts(given).items():
            leaf = laid.detach().requires_grad_()
            found = gram_matrix(leaf, scale)
            assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
            assert error(found, wanted.detach()) < TOLERANCE[dtype], name
            (gradient,) = torch.autograd.grad(found, leaf, outer.to(found.dtype))
            assert gradient.dtype == dtype
            assert error(gradient, slope) < GRADIENT[dtype], name


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_halves_neither_overflow_nor_lose_what_they_sum(dtype: torch.dtype) -> None:
    # Squares of 300 leave the range of float16, and 70 000 ones leave the precision of both; more than a chunk.
    given = features((1, 2, 300, 300), dtype, 300.0)
    given[:, 1] = 1.0
    found = gram_matrix(given.repeat(1, 8, 1, 1))
    assert torch.isfinite(found).all()
    assert error(found, reference(given.repeat(1, 8, 1, 1))) < 1e-5
    assert abs(float(found[0, 1, 1]) - 1.0) < 1e-5


def test_channels_last_stay_channels_last() -> None:
    given = features((2, 5, 4, 6)).to(memory_format=torch.channels_last)
    outer = features((2, 5, 5))
    gradient = gram_matrix_grad(outer, given)
    assert gradient.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(gradient, gram_matrix_grad(outer, given.contiguous()))


DISPATCHED = [(shape, name) for shape in ((2, 5, 3, 7), (1, 66, 4)) for name in layouts(torch.ones(shape))]
TYPES = (torch.float64, torch.float32, torch.bfloat16)


@pytest.mark.parametrize(
    ("shape", "layout", "dtype"),
    [
        # Every layout and every type, and on request each with each.
        pytest.param(shape, name, dtype, marks=[] if index % 3 == number else pytest.mark.slow)
        for index, (shape, name) in enumerate(DISPATCHED)
        for number, dtype in enumerate(TYPES)
    ],
    ids=str,
)
def test_the_dispatcher_is_told_the_truth(shape: tuple[int, ...], layout: str, dtype: torch.dtype) -> None:
    leaf = layouts(features(shape, dtype))[layout].detach().requires_grad_()
    outer = features((shape[0], shape[1], shape[1])).to(gram_matrix(leaf).dtype)
    opcheck(gram_matrix_op, (leaf,))
    opcheck(gram_matrix_grad_op, (outer.requires_grad_(), leaf, 0.5))


def test_the_gradient_and_its_gradient_hold_in_double_precision() -> None:
    leaf = features((2, 3, 2, 3)).requires_grad_()
    outer = features((2, 3, 3)).requires_grad_()
    assert torch.autograd.gradcheck(gram_matrix, (leaf,))
    assert torch.autograd.gradgradcheck(gram_matrix, (leaf,))
    assert torch.autograd.gradcheck(gram_matrix_grad, (outer, leaf, 0.3))


def style(leaf: Tensor) -> Tensor:
    return (gram_matrix(leaf) ** 2).sum()


def test_compiled_and_exported_it_computes_the_same() -> None:
    leaf = features((1, 4, 6, 5), torch.float32).requires_grad_()
    compiled = torch.compile(style, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(leaf), style(leaf))
    torch.testing.assert_close(
        torch.autograd.grad(compiled(leaf), leaf), torch.autograd.grad(style(leaf), leaf)
    )

    class Network(torch.nn.Module):
        def forward(self, given: Tensor) -> Tensor:
            return gram_matrix(given)

    free = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(Network(), (leaf.detach(),), dynamic_shapes=(free,))
    assert torch.ops.gantk.gram_matrix.default in [node.target for node in program.graph.nodes]
    other = features((1, 4, 3, 9), torch.float32)
    torch.testing.assert_close(program.module()(other), gram_matrix(other))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (torch.ones(3, 4), r"shape \[3, 4\]"),
        (torch.ones(1, 2, 0), r"shape \[1, 2, 0\]"),
        (torch.ones(1, 2, 3, dtype=torch.int64), "torch.int64"),
    ],
)
def test_what_is_no_features_is_refused(given: Tensor, words: str) -> None:
    with pytest.raises(GantkError, match=words):
        gram_matrix(given)


def test_a_gradient_of_another_shape_is_refused() -> None:
    with pytest.raises(GantkError, match=r"shape \[1, 3, 3\]; \[2, 3, 3\]"):
        gram_matrix_grad(torch.ones(1, 3, 3), torch.ones(2, 3, 4))


def test_a_kernel_takes_the_place_of_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a CUDA kernel will do, shown with another device that has none: the dispatcher chooses by it."""
    seen: list[Any] = []

    def kernel(given: Tensor, scale: float | None = None) -> Tensor:
        seen.append((given.device.type, scale))
        # It stays registered, and so tells the tests that follow what the operator itself would.
        return given.new_empty(given.shape[0], given.shape[1], given.shape[1], dtype=sum_dtype(given))

    gram_matrix_op.register_kernel("meta")(kernel)
    assert gram_matrix(torch.empty(2, 3, 4, device="meta"), 0.5).shape == (2, 3, 3)
    assert seen == [("meta", 0.5)]

# SPDX-License-Identifier: Apache-2.0
"""The total variation and its gradient against float64, in blocks of every height, and through the compilers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor
from torch.library import opcheck

from gantk.errors import GantkError, UsageError
from gantk.ops import total_variation, variation
from gantk.ops.variation import KINDS, total_variation_op

GRADIENT = {torch.float64: 1e-13, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


def pictures(*shape: int, dtype: torch.dtype = torch.float64, size: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(sum(shape))
    return (torch.rand(shape, generator=rng, dtype=torch.float64) * size).to(dtype)


def reference(given: Tensor, kind: str, eps: float = 1e-8) -> Tensor:
    """By padding with the border's own values, so that differences beyond it are 0."""
    exact = given.double()
    dx = torch.cat([exact, exact[..., -1:]], 3).diff(dim=3)
    dy = torch.cat([exact, exact[:, :, -1:]], 2).diff(dim=2)
    if kind == "isotropic":
        return (dx**2 + dy**2 + eps).sqrt().sum((1, 2, 3))
    power = 1 if kind == "l1" else 2
    return (dx.abs() ** power + dy.abs() ** power).sum((1, 2, 3))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", GRADIENT, ids=str)
@pytest.mark.parametrize("block", [1, 60, 2**18])
def test_values_and_gradients_are_those_of_float64(
    kind: str, dtype: torch.dtype, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variation, "_BLOCK", block)
    for shape in ((1, 3, 7, 5), (2, 1, 1, 9), (2, 3, 9, 1), (1, 1, 1, 1), (3, 2, 13, 11)):
        for last in (False, True):
            given = pictures(*shape, dtype=dtype)
            laid = given.to(memory_format=torch.channels_last) if last else given
            exact = given.double().requires_grad_()
            wanted = reference(exact, kind)
            (slope,) = torch.autograd.grad(wanted.sum(), exact)
            leaf = laid.requires_grad_()
            found = total_variation(leaf, kind)
            torch.testing.assert_close(found.double(), wanted, rtol=1e-6, atol=1e-12)
            (gradient,) = torch.autograd.grad(found.sum(), leaf)
            assert gradient.dtype == dtype
            assert float((gradient.double() - slope).abs().max()) <= GRADIENT[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_halves_do_not_overflow(dtype: torch.dtype) -> None:
    given = pictures(1, 3, 64, 64, dtype=dtype, size=60000.0)
    for kind in KINDS:
        found = total_variation(given, kind)
        torch.testing.assert_close(found.double(), reference(given, kind), rtol=5e-6, atol=0)


def test_a_plain_picture_has_no_variation_and_no_slope() -> None:
    plain = torch.full((1, 3, 5, 6), 0.7, requires_grad=True)
    assert float(total_variation(plain, "l1").detach()) == 0
    assert float(total_variation(plain, "isotropic", 1e-4).detach()) == pytest.approx(90 * 1e-2)
    (slope,) = torch.autograd.grad(total_variation(plain, "isotropic").sum(), plain)
    assert not slope.any()


def test_each_picture_has_its_own_slope() -> None:
    leaf = pictures(2, 1, 4, 4).requires_grad_()
    (slope,) = torch.autograd.grad(total_variation(leaf, "l2"), leaf, torch.tensor([1.0, 0.0]).double())
    assert slope[0].any()
    assert not slope[1].any()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "laid"),
    [
        (torch.float64, torch.contiguous_format),
        (torch.bfloat16, torch.channels_last),
        # Of each of these pairs, each half is above.
        pytest.param(torch.float64, torch.channels_last, marks=pytest.mark.slow),
        pytest.param(torch.bfloat16, torch.contiguous_format, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_dispatcher_is_told_the_truth(kind: str, dtype: torch.dtype, laid: torch.memory_format) -> None:
    leaf = pictures(2, 3, 5, 4, dtype=dtype).to(memory_format=laid)
    opcheck(total_variation_op, (leaf.requires_grad_(), kind))


@pytest.mark.parametrize("kind", KINDS)
def test_the_dispatcher_is_told_the_truth_of_a_value_alone(kind: str) -> None:
    opcheck(total_variation_op, (pictures(1, 3, 4, 4), kind, 1e-8, False))


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_holds(kind: str) -> None:
    leaf, eps = pictures(2, 3, 5, 4).requires_grad_(), 1e-2  # Wide enough a bend for finite differences.
    assert torch.autograd.gradcheck(lambda some: total_variation(some, kind, eps), leaf)


def test_compiled_and_exported_it_computes_the_same() -> None:
    leaf = pictures(1, 3, 8, 6, dtype=torch.float32).requires_grad_()
    compiled = torch.compile(lambda some: total_variation(some).sum(), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(
        torch.autograd.grad(compiled(leaf), leaf), torch.autograd.grad(total_variation(leaf).sum(), leaf)
    )

    class Network(torch.nn.Module):
        def forward(self, given: Tensor) -> tuple[Tensor, Tensor]:
            value, gradient = total_variation_op(given, "l2")
            return value, gradient

    free = {2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    program = torch.export.export(Network(), (leaf.detach(),), dynamic_shapes=(free,))
    other = pictures(1, 3, 5, 9, dtype=torch.float32)
    torch.testing.assert_close(program.module()(other), Network()(other))


def test_a_gradient_that_was_not_computed_is_not_given() -> None:
    leaf = pictures(1, 3, 4, 4).requires_grad_()
    value, gradient = total_variation_op(leaf, "l1", 1e-8, False)
    assert gradient.numel() == 0
    with pytest.raises(GantkError, match="without its gradient"):
        value.sum().backward()
    with torch.no_grad():
        torch.testing.assert_close(total_variation(leaf), value)


def test_no_temporary_is_as_large_as_the_picture() -> None:
    """In a fresh process, by the peak of its memory: the gradient is one picture, all else blocks.

    The function alone: what the dispatcher imports for an operator's first call takes as long as all the rest.
    """
    code = (
        "import pathlib, torch\n"
        "from gantk.ops.variation import total_variation_reference\n"
        "status = pathlib.Path('/proc/self/status')\n"
        "peak = lambda: int(status.read_text().partition('VmHWM:')[2].split()[0]) / 1024\n"
        "total_variation_reference(torch.rand(1, 3, 512, 512), 'isotropic')\n"
        "picture = torch.rand(1, 3, 2048, 2048)\n"
        "before = peak()\n"
        "total_variation_reference(picture, 'isotropic')\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # MiB: a picture, and half of one, with the allocator's rounding.
    assert 40 < float(done.stdout) < 48 + 24


@pytest.mark.parametrize(
    ("given", "kind", "eps", "words"),
    [
        (torch.ones(1, 3, 4, 4), "l3", 1e-8, "'l3'; allowed are l1, l2, isotropic"),
        (torch.ones(3, 4, 4), "l1", 1e-8, r"shape \[3, 4, 4\]"),
        (torch.ones(1, 3, 0, 4), "l1", 1e-8, r"shape \[1, 3, 0, 4\]"),
        (torch.ones(1, 3, 4, 4, dtype=torch.uint8), "l1", 1e-8, "torch.uint8"),
        (torch.ones(1, 3, 4, 4), "isotropic", 0.0, "eps is 0.0"),
    ],
)
def test_what_is_no_picture_is_refused(given: Tensor, kind: str, eps: float, words: str) -> None:
    with pytest.raises((GantkError, UsageError), match=words):
        total_variation(given, kind, eps)

# SPDX-License-Identifier: Apache-2.0
"""The style loss of several layers against float64, and as an exporter sees it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from gantk.errors import GantkError
from gantk.ops import gram_matrix, style_loss, total_variation
from gantk.ops.style import decompositions, style_loss_op

SHAPES = [(2, 3, 9, 7), (2, 66, 4, 3), (2, 5, 1, 1)]
WEIGHTS = [1.0, 0.25, 3.0]


def layers(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    rng = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=rng, dtype=torch.float64).to(dtype) for shape in SHAPES]


def targets(each: bool = False) -> list[Tensor]:
    rng = torch.Generator().manual_seed(1)
    shapes = [(2, c, c) if each else (c, c) for _, c, *_ in SHAPES]
    return [torch.randn(shape, generator=rng, dtype=torch.float64) for shape in shapes]


def reference(features: list[Tensor], wanted: list[Tensor]) -> Tensor:
    total = torch.zeros(2, dtype=torch.float64)
    for layer, target, weight in zip(features, wanted, WEIGHTS, strict=True):
        flat = layer.double().flatten(2)
        gram = flat @ flat.transpose(1, 2) / flat.shape[2]
        total = total + weight * ((gram - target) ** 2).mean((1, 2))
    return total


@pytest.mark.parametrize("each", [False, True])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 4e-3)]
)
def test_values_and_gradients_are_those_of_float64(dtype: torch.dtype, tolerance: float, each: bool) -> None:
    given = [layer.requires_grad_() for layer in layers(dtype)]
    exact = [layer.detach().double().requires_grad_() for layer in given]
    found, wanted = style_loss(given, targets(each), WEIGHTS), reference(exact, targets(each))
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(found.double(), wanted, rtol=min(tolerance, 1e-5), atol=0)
    outer = torch.tensor([1.0, -2.0])
    slopes = torch.autograd.grad(wanted, exact, outer.double())
    for slope, gradient in zip(slopes, torch.autograd.grad(found, given, outer.to(found.dtype)), strict=True):
        assert gradient.dtype == dtype
        assert float((gradient.double() - slope).abs().max() / slope.abs().max()) < tolerance


def test_the_dispatcher_is_told_the_truth_and_the_gradient_holds() -> None:
    given = [layer[:, :5].detach().requires_grad_() for layer in layers()]
    wanted = [target[:5, :5] for target in targets()]
    opcheck(style_loss_op, (given, wanted, WEIGHTS))
    assert torch.autograd.gradcheck(lambda *some: style_loss(some, wanted, WEIGHTS), given)


def test_an_exporter_finds_gram_matrices_forward_and_backward() -> None:
    network = torch.nn.Conv2d(3, 6, 3, padding=1).double().requires_grad_(False)

    def step(picture: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            leaf = picture.detach().requires_grad_()
            loss = style_loss([network(leaf)], [target], [2.0]).sum() + total_variation(leaf).sum()
            (gradient,) = torch.autograd.grad(loss, leaf)
        return loss.detach(), gradient

    given, target = (
        torch.rand(1, 3, 12, 10, dtype=torch.float64),
        gram_matrix(torch.rand(1, 6, 4).double())[0],
    )
    graph = make_fx(
        step, tracing_mode="symbolic", decomposition_table=decompositions(), _allow_non_fake_inputs=True
    )(given, target)
    names = {str(node.target) for node in graph.graph.nodes if "gantk" in str(node.target)}
    assert names == {
        "gantk.gram_matrix.default", "gantk.gram_matrix_grad.default", "gantk.total_variation.default",
    }  # fmt: skip
    other = torch.rand(1, 3, 7, 9, dtype=torch.float64)
    for found, wanted in zip(graph(other, target), step(other, target), strict=True):
        torch.testing.assert_close(found, wanted)


@pytest.mark.parametrize(
    ("features", "wanted", "weights", "words"),
    [
        ([], [], [], "0 layers"),
        ([torch.ones(1, 2, 3)], [], [1.0], "1 layers, 0 targets and 1 weights"),
        ([torch.ones(1, 2, 3)], [torch.ones(3, 3)], [1.0], r"shape \[3, 3\]; \[2, 2\]"),
        (
            [torch.ones(1, 2, 3), torch.ones(2, 2, 3)],
            [torch.ones(2, 2)] * 2,
            [1.0, 1.0],
            "number of pictures",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(
    features: list[Tensor], wanted: list[Tensor], weights: list[float], words: str
) -> None:
    with pytest.raises(GantkError, match=words):
        style_loss(features, wanted, weights)

# SPDX-License-Identifier: Apache-2.0
"""Whether a contender is right, before it is timed: against float64, on samples where all would be too much."""

from __future__ import annotations

import torch
from gpu_cases import Case
from gpu_contenders import Inputs, plain_variation
from torch import Tensor

SAMPLES = 256
# Of gantk's results, relative to what the number is made of: sqrt(G_ii G_jj), the loss, the largest slope. The
# gradient of bf16 features is bf16 itself.
VALUES = {"bf16": 2e-5, "tf32": 1e-3, "fp32": 2e-6}
GRADIENTS = {"bf16": 6e-3, "tf32": 2e-3, "fp32": 1e-5}
VARIATION = 2e-6
LOOSE = 8.0  # PyTorch rounds its values to bf16 too, and its intermediate results.


def tolerances(case: Case, contender: str) -> tuple[float, float]:
    """Of the value and of the gradient."""
    value = VARIATION if case.operation == "variation" else VALUES[case.precision]
    slope = GRADIENTS[case.precision]
    return (value, slope) if contender.startswith("gantk") else (max(value, LOOSE * slope), LOOSE * slope)


def errors(case: Case, inputs: Inputs, found: list[Tensor]) -> tuple[float, float | None]:
    """The largest error of the value and, where there is one, of the gradient; NaN where anything is not finite."""
    if not all(bool(torch.isfinite(each).all()) for each in found):
        return float("nan"), None
    if case.operation == "variation":
        return _variation_errors(case, inputs.features[0], found)
    if case.operation == "gram":
        return _gram_error(inputs.features[0], found[0]), None
    return _style_errors(inputs, found)


def _gram_error(features: Tensor, gram: Tensor) -> float:
    """Of some elements of the first and the last picture."""
    worst = 0.0
    rng = torch.Generator().manual_seed(0)
    for n in {0, len(gram) - 1}:
        flat = features[n].flatten(1)
        i, j = torch.randint(flat.shape[0], (2, SAMPLES), generator=rng).to(flat.device)
        for rows, columns in zip(i.split(16), j.split(16), strict=True):
            a, b = flat[rows].double(), flat[columns].double()
            norm = (a.square().sum(1) * b.square().sum(1)).sqrt() / flat.shape[1]
            error = (gram[n][rows, columns].double() - (a * b).sum(1) / flat.shape[1]).abs()
            worst = max(worst, float((error / norm).max()))
    return worst


def _style_errors(inputs: Inputs, found: list[Tensor]) -> tuple[float, float]:
    """The loss of every picture, and the gradient at some places of the first."""
    loss, *gradients = found
    wanted = torch.zeros(len(loss), dtype=torch.float64, device=loss.device)
    worst = 0.0
    for layer, target, gradient in zip(inputs.features, inputs.targets, gradients, strict=True):
        places = layer[0, 0].numel()
        picks = torch.randint(places, (SAMPLES,), generator=torch.Generator().manual_seed(1)).to(layer.device)
        for n, features in enumerate(layer.detach().flatten(2)):
            difference = exact_gram(features) - target.double()
            wanted[n] += difference.square().mean()
            if n == 0:
                slopes = (
                    2
                    / difference.numel()
                    / places
                    * (difference + difference.mT)
                    @ features[:, picks].double()
                )
                error = (gradient[0].flatten(1)[:, picks].double() - slopes).abs().max() / slopes.abs().max()
                worst = max(worst, float(error))
    return float(((loss.double() - wanted) / wanted).abs().max()), worst


def exact_gram(features: Tensor) -> Tensor:
    """float64[C, C] of [C, K], a piece of K at a time."""
    pieces = (piece.double() for piece in features.split(2**18, dim=1))
    total = sum(piece @ piece.mT for piece in pieces)
    assert isinstance(total, Tensor)
    return total / features.shape[1]


def _variation_errors(case: Case, pictures: Tensor, found: list[Tensor]) -> tuple[float, float | None]:
    """Of the first and the last picture, whole."""
    value, slope = 0.0, None
    for n in {0, len(pictures) - 1}:
        exact = pictures[n : n + 1].detach().double().requires_grad_(case.gradient)
        wanted = plain_variation(case, [exact], [])
        exactly = wanted.detach()[0]
        value = max(value, float((found[0][n].double() - exactly).abs() / exactly))
        if case.gradient:
            (slopes,) = torch.autograd.grad(wanted.sum(), exact)
            error = float((found[1][n].double() - slopes[0]).abs().max() / slopes.abs().max())
            slope = max(slope or 0.0, error)
    return value, slope

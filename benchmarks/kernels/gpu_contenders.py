# SPDX-License-Identifier: Apache-2.0
"""Who is measured on a case: gantk's operators, plain PyTorch, and what torch.compile makes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from gpu_cases import Case
from torch import Tensor

from gantk.ops import gram_matrix, style_loss, total_variation
from gantk.ops.variation import total_variation_op

Function = Callable[[], list[Tensor]]
EPS = 1e-8
MODES = {"compile": "default", "compile max-autotune": "max-autotune-no-cudagraphs"}


@dataclass
class Inputs:
    """What a case is computed from, on the GPU.

    Args:
        features: Of each layer [N, C, H, W]; or one picture [N, 3, H, W].
        targets: Of a style loss: of each layer the Gram matrix [C, C].
    """

    features: list[Tensor]
    targets: list[Tensor]


def make_inputs(case: Case, device: str = "cuda") -> Inputs:
    """Values of [0, 1), the same in every run; leaves where a gradient is wanted."""
    rng = torch.Generator(device).manual_seed(case.size + case.channels)
    dtype = torch.bfloat16 if case.precision == "bf16" else torch.float32

    def some(*shape: int) -> Tensor:
        return torch.rand(shape, generator=rng, device=device).to(dtype)

    if case.operation == "variation":
        features, targets = [some(case.pictures, 3, case.size, case.size)], []
    else:
        sides = [(c, int(k**0.5)) for c, k in case.layers]
        features = [some(case.pictures, c, side, side) for c, side in sides]
        targets = [some(c, c).float() for c, _ in sides] if case.operation == "style" else []
    return Inputs([each.requires_grad_(case.gradient) for each in features], targets)


def contenders(case: Case, inputs: Inputs, *, max_autotune: bool = False) -> dict[str, Function]:
    """By name, functions that return the value and, where it is wanted, the gradients.

    ``gantk`` calls an operator once; for a variation with gradient that is one pass. ``gantk autograd`` goes through
    autograd, which multiplies by the gradient from above in another pass. Beside a variation, ``copy`` moves as many
    bytes as it has to: how long that takes says more of a few microseconds than the bandwidth of large copies.
    """
    plain = {"gram": plain_gram, "style": plain_style, "variation": plain_variation}[case.operation]
    ours = {"gram": our_gram, "style": our_style, "variation": our_variation}[case.operation]
    base = "bmm" if case.operation == "gram" else "eager"
    found = {"gantk": _called(ours, case, inputs), base: _called(plain, case, inputs)}
    if case.operation == "variation" and case.gradient:
        leaf = inputs.features[0]
        found["gantk autograd"] = found["gantk"]
        found["gantk"] = lambda: list(total_variation_op(leaf.detach(), case.kind, EPS, True))
    for name, mode in MODES.items():
        if mode == "default" or max_autotune:
            found[name] = _called(torch.compile(plain, mode=mode, dynamic=False), case, inputs)
    if case.operation == "variation":
        found["copy"] = _copy(case.least_bytes // 2, inputs.features[0].device)
    return found


def set_precision(case: Case) -> None:
    """How float32 is multiplied, by all contenders."""
    torch.set_float32_matmul_precision("high" if case.precision == "tf32" else "highest")


def plain_gram(case: Case, features: list[Tensor], targets: list[Tensor]) -> Tensor:
    flat = features[0].flatten(2)
    return torch.bmm(flat, flat.mT) * (1 / flat.shape[2])


def plain_style(case: Case, features: list[Tensor], targets: list[Tensor]) -> Tensor:
    grams = [plain_gram(case, [layer], []) for layer in features]
    terms = [(gram - target).square().mean((1, 2)) for gram, target in zip(grams, targets, strict=True)]
    return torch.stack(terms).sum(0)


def plain_variation(case: Case, features: list[Tensor], targets: list[Tensor]) -> Tensor:
    wide = features[0].float() if features[0].dtype != torch.float64 else features[0]
    dx, dy = wide.diff(dim=3), wide.diff(dim=2)
    if case.kind == "l1":
        return dx.abs().sum((1, 2, 3)) + dy.abs().sum((1, 2, 3))
    if case.kind == "l2":
        return dx.square().sum((1, 2, 3)) + dy.square().sum((1, 2, 3))
    pad = torch.nn.functional.pad
    return (pad(dx, (0, 1)).square() + pad(dy, (0, 0, 0, 1)).square() + EPS).sqrt().sum((1, 2, 3))


def our_gram(case: Case, features: list[Tensor], targets: list[Tensor]) -> Tensor:
    return gram_matrix(features[0])


def our_style(case: Case, features: list[Tensor], targets: list[Tensor]) -> Tensor:
    return style_loss(features, targets, [1.0] * len(features))


def our_variation(case: Case, features: list[Tensor], targets: list[Tensor]) -> Tensor:
    return total_variation(features[0], case.kind, EPS)


def _copy(count: int, device: torch.device) -> Function:
    """An elementwise kernel that reads `count` bytes and writes as many."""
    source = torch.ones(count // 4, device=device)
    target = torch.empty_like(source)

    def call() -> list[Tensor]:
        torch.neg(source, out=target)
        return []

    return call


def _called(function: Callable[..., Any], case: Case, inputs: Inputs) -> Function:
    def call() -> list[Tensor]:
        value = function(case, inputs.features, inputs.targets)
        if not case.gradient:
            return [value]
        return [value.detach(), *torch.autograd.grad(value.sum(), inputs.features)]

    return call

# SPDX-License-Identifier: Apache-2.0
"""The style loss of several layers and its gradient, kernel after kernel, against the operators on a CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gram_trials import SHARED_BYTES, TYPES
from interpreted import Memory, run
from judged import TRIALS

from gantk.kernels.gram_gradient_plan import GradientStyle, plan_gram_gradient
from gantk.kernels.gram_plan import GramTargets, plan_gram
from gantk.kernels.launch import Device, Features

pytestmark = TRIALS

torch = pytest.importorskip("torch", reason="the operators need PyTorch")

Array = np.ndarray[Any, Any]
PICTURES, LAYERS, WEIGHTS = 2, ((20, 136), (72, 64), (5, 40)), (1.0, 0.25, 3.0)
UPSTREAM = np.array([0.5, -2.0], np.float32)
# Relative to the largest of each result: float32 sums; halves round slopes and results.
TOLERANCE = {"float32": 2e-6, "float16": 2e-3, "bfloat16": 1.5e-2}


def numbers(dtype: str) -> tuple[list[Array], list[Array]]:
    """Features, and targets that are not symmetric: of the first layer one for all pictures."""
    rng = np.random.default_rng(3)
    features = [(rng.standard_normal((PICTURES, *layer)) + 0.25).astype(TYPES[dtype]) for layer in LAYERS]
    counts = [1, PICTURES, PICTURES]
    targets = [rng.random((n, c, c), np.float32) for n, (c, _) in zip(counts, LAYERS, strict=True)]
    return features, targets


def by_kernels(
    dtype: str, arch: str, features: Sequence[Array], targets: Sequence[Array]
) -> tuple[Array, list[Array]]:
    """The loss [N] and each layer's gradient: five launches, with the differences in between."""
    number = int(arch.removeprefix("sm_").removesuffix("a"))
    device = Device(divmod(number, 10), 4, SHARED_BYTES[arch])
    laid = [Features.contiguous(dtype, PICTURES, *layer) for layer in LAYERS]
    forward, backward = plan_gram(laid, device, style=True), plan_gram_gradient(laid, device)
    memory = Memory()
    places = [memory.put(each) for each in features]
    squares = [channels**2 for channels, _ in LAYERS]
    differences = memory.empty((PICTURES, sum(squares)), np.float32)
    pieces = [differences + 4 * sum(squares[:index]) for index in range(len(squares))]
    loss = memory.empty(PICTURES, np.float32)
    strides = [0 if len(target) == 1 else target[0].size for target in targets]
    style = GramTargets([memory.put(target) for target in targets], strides, WEIGHTS, loss)
    workspace = memory.empty(forward.workspace_bytes // 4, np.float32)
    run(
        forward.launches(
            places, pieces, workspace, gram_strides=[sum(squares)] * len(squares), targets=style
        ),
        memory,
        arch,
    )
    results = [memory.empty(each.shape, each.dtype) for each in features]
    workspace = memory.empty(backward.workspace_bytes // 4, np.float32)
    launches = backward.launches(
        pieces,
        places,
        results,
        workspace,
        gradient_strides=[(sum(squares), channels, 1) for channels, _ in LAYERS],
        style=GradientStyle(WEIGHTS, memory.put(UPSTREAM)),
    )
    assert len(launches) == 2
    run(launches, memory, arch)
    return memory.get(loss).astype(np.float64), [memory.get(result).astype(np.float64) for result in results]


def by_operators(features: Sequence[Any], targets: Sequence[Any]) -> tuple[Array, list[Array]]:
    from gantk.ops.style import style_loss

    leaves = [each.requires_grad_() for each in features]
    loss = style_loss(leaves, list(targets), list(WEIGHTS))
    loss.backward(torch.from_numpy(UPSTREAM).to(loss.dtype))
    return loss.detach().double().numpy(), [leaf.grad.double().numpy() for leaf in leaves]


@pytest.mark.parametrize(
    ("dtype", "arch"),
    [
        ("float32", "sm_75"),
        ("float32", "sm_80"),
        ("float16", "sm_75"),
        ("float16", "sm_90a"),
        ("bfloat16", "sm_90a"),
    ],
)
def test_loss_and_gradient_are_those_of_the_operators(dtype: str, arch: str) -> None:
    features, targets = numbers(dtype)
    wide = [torch.from_numpy(each.astype(np.float64)) for each in features]
    exact_loss, exact = by_operators(wide, [torch.from_numpy(each).double() for each in targets])
    narrow = [each.detach().to(getattr(torch, dtype)) for each in wide]
    same_loss, same = by_operators(narrow, [torch.from_numpy(each) for each in targets])
    loss, gradients = by_kernels(dtype, arch, features, targets)
    np.testing.assert_allclose(loss, exact_loss, rtol=2e-6)
    np.testing.assert_allclose(loss, same_loss, rtol=4e-6)
    for made, wanted, operator in zip(gradients, exact, same, strict=True):
        room = TOLERANCE[dtype] * np.abs(wanted).max()
        assert np.abs(made - wanted).max() <= room
        assert np.abs(made - operator).max() <= 2 * room

# SPDX-License-Identifier: Apache-2.0
"""The optimisation at one size: L-BFGS or Adam on the pixels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from gantk.gatys.config import GatysConfig
from gantk.gatys.loss import measure
from gantk.gatys.objective import Objective
from gantk.gatys.tiles import measure_in_tiles
from gantk.stylize.schedule import EXPLODED, LBFGS_MEMORY, Losses, adam_rate, check_losses

WHOLE_PIXELS = 512 * 512
"""A larger picture is measured in tiles. Whole, it takes about 3 KB a pixel, 12 GB for 2048 x 2048."""

Step = Callable[[int, Losses, Tensor], bool]
"""Called after each step with its number, the losses before it and the picture after it; `False` ends."""


def descend(objective: Objective, start: Tensor, config: GatysConfig, steps: int, on_step: Step) -> Tensor:
    """Make a picture better.

    Args:
        objective: What it is to be like.
        start: float[1, 3, H, W] in [0, 1].
        config: The optimiser and its numbers.
        steps: How many.
        on_step: Told of every step.

    Returns:
        float[1, 3, H, W]; L-BFGS may leave [0, 1].

    Raises:
        GantkError: The loss is not a number any more.
    """
    run = _run_adam if config.optimizer == "adam" else _run_lbfgs
    return run(objective, start.clone(memory_format=torch.contiguous_format), config, steps, on_step)


def _measure(objective: Objective, picture: Tensor, number: int) -> tuple[Losses, Tensor]:
    whole = picture.shape[2] * picture.shape[3] <= WHOLE_PIXELS
    losses, gradient = (measure if whole else measure_in_tiles)(objective, picture)
    check_losses(losses, number)
    return losses, gradient.contiguous()


def _run_adam(
    objective: Objective, picture: Tensor, config: GatysConfig, steps: int, on_step: Step
) -> Tensor:
    optimizer = torch.optim.Adam([picture], betas=(config.beta1, 0.999), eps=config.adam_eps)
    for number in range(1, steps + 1):
        losses, picture.grad = _measure(objective, picture, number)
        optimizer.param_groups[0]["lr"] = adam_rate(config.lr, number, steps)
        optimizer.step()
        picture.clamp_(0, 1)
        if not on_step(number, losses, picture):
            break
    return picture


def _run_lbfgs(
    objective: Objective, picture: Tensor, config: GatysConfig, steps: int, on_step: Step
) -> Tensor:
    """L-BFGS without a line search, as everybody runs it here: one measurement a step.

    A step that goes wrong is undone, and the memory begins anew with half the rate.
    """
    rate = config.lr or 1.0
    optimizer = _lbfgs(picture, rate)
    best, least, losses = picture.clone(), math.inf, None
    for number in range(1, steps + 1):
        losses, gradient = _measure(objective, picture, number)
        if losses.total > EXPLODED * least:
            rate /= 2
            picture.copy_(best)
            optimizer = _lbfgs(picture, rate)
            losses, gradient = _measure(objective, picture, number)
        elif losses.total < least:
            least = losses.total
            best.copy_(picture)
        picture.grad = gradient
        optimizer.step(lambda: losses.total)  # type: ignore[no-untyped-call]  # noqa: B023 - called at once
        if not on_step(number, losses, picture):
            break
    return picture


def _lbfgs(picture: Tensor, rate: float) -> torch.optim.LBFGS:
    # One iteration a call, so that there is one measurement a step; what it remembers lives on between calls.
    return torch.optim.LBFGS(
        [picture], rate, max_iter=1, history_size=LBFGS_MEMORY, tolerance_grad=0, tolerance_change=0
    )

# SPDX-License-Identifier: Apache-2.0
"""An optimisation at one size over a step's graph: Adam inside the graph, or L-BFGS in numpy around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from gantk.runtime.runner import Array, Runner
from gantk.stylize.schedule import EXPLODED, LBFGS_MEMORY, Losses, adam_rate, check_losses

NEXT = "next_"
STATE = ("picture", "mean", "square", "corrections")
"""What an Adam step takes and yields; a yielded one has `NEXT` before its name."""

_LEAST_CURVATURE = 1e-10


OnStep = Callable[[int, Losses, Array], bool]
"""Called after each step with its number, the losses before it and the picture after it; `False` ends."""


def run_adam(
    runner: Runner,
    wanted: Mapping[str, Array],
    start: Array,
    steps: int,
    on_step: OnStep,
    *,
    lr: float | None = None,
    beta1: float = 0.9,
    epsilon: float = 1e-8,
) -> Array:
    """Repeat a step's adam graph.

    Args:
        runner: Of the graph.
        wanted: Its targets and the weights of the losses.
        start: float32[1, 3, H, W] in [0, 1].
        steps: How many.
        on_step: Told of every step.
        lr: The learning rate; by default 0.02, which in the second half falls to a tenth.
        beta1: The decay of the first moment; that of the second is 0.999.
        epsilon: Added to the root of the second moment.

    Returns:
        float32[1, 3, H, W] in [0, 1].

    Raises:
        GantkError: The loss is not a number any more.
    """
    zeros = np.zeros_like(start)
    state = dict(zip(STATE, (start, zeros, zeros, np.zeros(2, np.float32)), strict=True))
    settings = {"betas": np.array([beta1, 0.999], np.float32), "epsilon": np.array(epsilon, np.float32)}
    for number in range(1, steps + 1):
        rate = np.array(adam_rate(lr, number, steps), np.float32)
        feeds = {**wanted, **state, **settings, "learning_rate": rate}
        made = runner.run(feeds)
        losses = weigh(made, wanted, number)
        state = {name: made[f"{NEXT}{name}"] for name in STATE}
        if not on_step(number, losses, state["picture"]):
            break
    return state["picture"]


def run_lbfgs(
    runner: Runner,
    wanted: Mapping[str, Array],
    start: Array,
    steps: int,
    on_step: OnStep,
    *,
    lr: float | None = None,
) -> Array:
    """L-BFGS without a line search over a step's gradient graph, one gradient a step.

    A step that goes wrong is undone, and the memory begins anew with half the rate. Arguments, result and errors
    as for `run_adam`; the rate is 1 by default, and the picture may leave [0, 1].
    """
    rate = lr or 1.0
    optimizer, picture = Lbfgs(rate), start
    best, least = picture, math.inf
    for number in range(1, steps + 1):
        made = runner.run({**wanted, "picture": picture})
        losses = weigh(made, wanted, number)
        if losses.total > EXPLODED * least:
            rate, picture = rate / 2, best
            optimizer = Lbfgs(rate)
            made = runner.run({**wanted, "picture": picture})
            losses = weigh(made, wanted, number)
        elif losses.total < least:
            least, best = losses.total, picture
        picture = picture + optimizer.step(made["gradient"])
        if not on_step(number, losses, picture):
            break
    return picture


def weigh(made: Mapping[str, Array], wanted: Mapping[str, Array], number: int) -> Losses:
    """The losses of one picture, each with its weight.

    Raises:
        GantkError: They are not a number.
    """
    losses = Losses(
        *(
            float(made[f"{name}_loss"][0]) * float(wanted[f"{name}_weight"])
            for name in ("content", "style", "variation")
        )
    )
    check_losses(losses, number)
    return losses


class Lbfgs:
    """The direction of L-BFGS (Nocedal and Wright, Numerical Optimization, algorithm 7.4).

    Args:
        rate: What the direction is multiplied by; the first one also by 1 over the gradient's sum, at most 1.
    """

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._gradient: Array | None = None
        self._moved: Array | None = None
        self._scale = 1.0
        self._pairs: list[tuple[Array, Array, float]] = []

    def step(self, gradient: Array) -> Array:
        """What to add to the place at which the loss has this gradient."""
        rate = self._rate
        if self._gradient is None:
            rate /= max(1.0, float(np.abs(gradient).sum()))
        else:
            self._remember(gradient)
        direction = self._direction(gradient)
        if _dot(gradient, direction) > 0:  # Uphill, by rounding.
            return np.zeros_like(gradient)
        self._gradient, self._moved = gradient, np.float32(rate) * direction
        return self._moved

    def _remember(self, gradient: Array) -> None:
        assert self._gradient is not None and self._moved is not None
        change = gradient - self._gradient
        curvature = _dot(change, self._moved)
        if curvature > _LEAST_CURVATURE:
            self._pairs = [*self._pairs[1 - LBFGS_MEMORY :], (change, self._moved, 1.0 / curvature)]
            self._scale = curvature / _dot(change, change)

    def _direction(self, gradient: Array) -> Array:
        direction = -gradient
        shares = []
        for change, moved, inverse in reversed(self._pairs):
            shares.append(_dot(moved, direction) * inverse)
            direction = direction - np.float32(shares[-1]) * change
        direction = direction * np.float32(self._scale)
        for (change, moved, inverse), share in zip(self._pairs, reversed(shares), strict=True):
            direction = direction + np.float32(share - _dot(change, direction) * inverse) * moved
        return direction


def _dot(a: Array, b: Array) -> float:
    return float(np.vdot(a, b))

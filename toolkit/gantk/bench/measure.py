# SPDX-License-Identifier: Apache-2.0
"""Blocks of calls that rotate among the contenders, until the medians stand still or the time is up."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from gantk.bench.process import Worker, WorkerError
from gantk.bench.stats import Nanoseconds, half_width

BLOCK_S = 0.25
WARMUP_S = 0.02
TARGET = 0.01
"""The half-width of the p50's confidence interval, as a share of it, at which a contender has converged."""

MIN_ROUNDS = 6  # fewer blocks carry no 95 % interval of their median
MOST_CALLS = 20_000

Progress = Callable[[str], None]


@dataclass
class Lane:
    """A contender while it is measured.

    Args:
        name: For progress.
        worker: Loaded and fed.
        blocks: The durations of each block's calls, in ns, one block a round.
        error: Why it is out of the race.
    """

    name: str
    worker: Worker
    blocks: list[Nanoseconds] = field(default_factory=list)
    error: str | None = None

    @property
    def half_width(self) -> float | None:
        return half_width([float(np.median(block)) for block in self.blocks])

    def run_block(self, block_s: float, timeout_s: float) -> None:
        """Time one block."""
        try:
            warmup_s = min(WARMUP_S, block_s)
            answer = self.worker.ask(timeout_s, do="run", warmup_s=warmup_s, block_s=block_s, most=MOST_CALLS)
            self.blocks.append(np.array(answer["ns"], np.int64))
            self.worker.pause()
        except WorkerError as error:
            self.error = error.what


def measure(
    lanes: Sequence[Lane], budget_s: float, *, seed: int, timeout_s: float, progress: Progress
) -> int:
    """Give each lane one block a round, in a new order every round, while all others are stopped.

    Ends when every lane has converged (see `TARGET`) or the time is up, never before one whole round. A lane
    whose worker fails leaves the race and keeps its `error`.

    Args:
        budget_s: For all lanes together.
        seed: Of the orders.
        timeout_s: For one block.

    Returns:
        The number of rounds.
    """
    order = random.Random(seed)
    start = time.monotonic()
    block_s = min(BLOCK_S, budget_s / (2.0 * MIN_ROUNDS * max(1, len(lanes))))
    rounds = 0
    while racing := [lane for lane in lanes if lane.error is None]:
        order.shuffle(racing)
        for lane in racing:
            lane.run_block(block_s, timeout_s)
        rounds += 1
        widths = [lane.half_width for lane in racing if lane.error is None]
        progress(_status(rounds, widths, time.monotonic() - start, budget_s))
        converged = rounds >= MIN_ROUNDS and all(width is not None and width < TARGET for width in widths)
        if converged or time.monotonic() - start > budget_s:
            break
    return rounds


def _status(rounds: int, widths: Sequence[float | None], elapsed_s: float, budget_s: float) -> str:
    known = [width for width in widths if width is not None]
    spread = (
        f"p50 known to {max(known):.1%} or better" if len(known) == len(widths) and known else "warming up"
    )
    return f"round {rounds}, {elapsed_s:.0f} of {budget_s:.0f} s: {spread}"

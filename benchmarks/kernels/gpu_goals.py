# SPDX-License-Identifier: Apache-2.0
"""The goals of the kernels, and whether a result meets them. Times are those with a cold cache."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
Chosen = Callable[[Row], bool]

PLAIN = ("bmm", "eager")
COMPILED = ("compile", "compile max-autotune")
COPY = ("copy",)


@dataclass(frozen=True)
class Goal:
    """What is to hold over some cases.

    Args:
        text: Which cases, and against whom.
        chosen: Picks the rows of gantk that it is about.
        least: What is to be reached.
        against: The contenders of whom the fastest right one counts; without any, the share of the floor does.
        every: Whether each case must reach it, or only their geometric mean.
    """

    text: str
    chosen: Chosen
    least: float
    against: tuple[str, ...] = ()
    every: bool = False

    @property
    def is_share(self) -> bool:
        """Whether it is told in percent: of what cannot be done faster."""
        return self.against in ((), COPY)


def gram(*precisions: str, one: bool = True, channels: tuple[int, ...] = (64, 128, 256, 512)) -> Chosen:
    return lambda row: (
        row["operation"] == "gram"
        and row["precision"] in precisions
        and (row["pictures"] == 1) is one
        and row["channels"] in channels
    )


def variation(gradient: bool, size: int | None = None) -> Chosen:
    return lambda row: (
        row["operation"] == "variation" and row["gradient"] is gradient and size in (None, row["size"])
    )


def style(row: Row) -> bool:
    return bool(row["operation"] == "style")


def at(size: int, chosen: Chosen) -> Chosen:
    return lambda row: row["size"] == size and chosen(row)


FAST = ("bf16", "tf32")
GOALS = (
    Goal("Gram bf16 and tf32, one picture, against bmm, every case", gram(*FAST), 1.0, PLAIN, every=True),
    Goal("Gram bf16 and tf32, one picture, against bmm", gram(*FAST), 1.3, PLAIN),
    Goal(
        "Gram bf16 and tf32, one picture, against torch.compile, every case",
        gram(*FAST),
        1.0,
        COMPILED,
        every=True,
    ),
    Goal("Gram bf16 and tf32, one picture, against torch.compile", gram(*FAST), 1.3, COMPILED),
    Goal("Gram bf16 and tf32, 2 to 8 pictures, against bmm", gram(*FAST, one=False), 2.0, PLAIN),
    Goal("Gram fp32, to 128 channels, against bmm", gram("fp32", channels=(64, 128)), 2.0, PLAIN),
    Goal("Gram fp32, from 256 channels, against bmm", gram("fp32", channels=(256, 512)), 3.0, PLAIN),
    Goal(
        "Gram to 128 channels at 2048^2, of the floor",
        at(2048, gram(*FAST, channels=(64, 128))),
        0.8,
        every=True,
    ),
    Goal(
        "Gram of 256 channels at 2048^2, of the floor",
        at(2048, gram(*FAST, channels=(256,))),
        0.65,
        every=True,
    ),
    Goal(
        "Gram of 512 channels at 2048^2, of the floor",
        at(2048, gram(*FAST, channels=(512,))),
        0.55,
        every=True,
    ),
    Goal("style loss with gradient, against eager", style, 2.2, PLAIN),
    Goal("style loss with gradient, against torch.compile", style, 2.0, COMPILED),
    Goal("variation at 2048^2, against eager", variation(False, 2048), 15.0, PLAIN),
    Goal("variation with gradient at 2048^2, against eager", variation(True, 2048), 15.0, PLAIN),
    Goal("variation, against torch.compile", variation(False), 1.0, COMPILED),
    Goal("variation with gradient, against torch.compile", variation(True), 1.35, COMPILED),
    Goal("variation at 2048^2, of a copy's speed", variation(False, 2048), 0.9, COPY, every=True),
    Goal(
        "variation with gradient at 2048^2, of a copy's speed", variation(True, 2048), 0.9, COPY, every=True
    ),
)


def judge(rows: list[Row]) -> list[dict[str, Any]]:
    """Every goal with what was measured; one whose cases were not measured, or are wrong, does not hold."""
    return [_judged(goal, rows) for goal in GOALS]


def _judged(goal: Goal, rows: list[Row]) -> dict[str, Any]:
    found, wrong = [], 0
    for row in rows:
        if row["contender"] != "gantk" or not goal.chosen(row):
            continue
        ratio = reached(goal, row, rows)
        wrong += not is_right(row)
        if ratio is not None:
            found.append(ratio)
    mean = math.exp(sum(map(math.log, found)) / len(found)) if found else None
    measured = min(found, default=None) if goal.every else mean
    how = "least" if goal.every else "geometric mean"
    unit, scale = ("%", 100) if goal.is_share else ("x", 1)
    told = "not measured" if measured is None else f"{how} of {len(found)}: {measured * scale:.3g}{unit}"
    told += f"; {wrong} WRONG" if wrong else ""
    return {
        "text": f"{goal.text}: at least {goal.least * scale:g}{unit}; {told}",
        "measured": measured,
        "holds": measured is not None and wrong == 0 and measured >= goal.least,
    }


def reached(goal: Goal, row: Row, rows: list[Row]) -> float | None:
    """How many times as fast as the fastest of the others, or the share of the floor."""
    if not is_right(row):
        return None
    if not goal.against:
        return float(row["floor_us"] / p50_us(row))
    others = [p50_us(other) for other in rows if same_case(row, other) and other["contender"] in goal.against]
    return min(others) / p50_us(row) if others else None


def is_right(row: Row) -> bool:
    return bool(row["status"] == "ok" and row["right"])


def same_case(one: Row, other: Row) -> bool:
    """Whether two rows are of one case; a contender that is wrong is not fast."""
    return is_right(other) and bool(one["case"] == other["case"])


def p50_us(row: Row) -> float:
    return float(row["cold_us"]["p50"])

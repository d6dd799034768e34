# SPDX-License-Identifier: Apache-2.0
"""From rows to a verdict: who is ranked, who is how much faster than PyTorch's best, and what to use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gantk.bench.contenders import TORCH_MODES
from gantk.bench.stats import NOISY_CV, Nanoseconds, speedup
from gantk.bundle import ENGINE_PRECISIONS

_EXACTNESS = {name: place for place, name in enumerate(ENGINE_PRECISIONS)}

_WIDE = 2.0
"""The ends of a gain's interval are so many times apart where only the lower one is worth telling."""

Row = dict[str, Any]
Blocks = Mapping[int, Sequence[Nanoseconds]]


def rank(rows: Sequence[Row], blocks: Blocks) -> None:
    """Fill in ``best_mode``, ``rank`` and ``speedup`` of every row of one case.

    A row that failed, or whose parity failed, has no rank. Of one backend and precision only the fastest mode and
    form has one: nobody runs the slower ones.

    Args:
        rows: Of one case.
        blocks: The durations of each row's blocks, by its ``id``.
    """
    right = [row for row in rows if is_right(row)]
    for row in rows:
        row.update(best_mode=False, rank=None, speedup=None)
    for group in {_group(row) for row in right}:
        min((row for row in right if _group(row) == group), key=p50)["best_mode"] = True
    for place, row in enumerate(sorted((row for row in right if row["best_mode"]), key=p50), start=1):
        row["rank"] = place
    for row in rows:
        best = _torch_best(right, row["precision"])
        if is_right(row) and best is not None and best is not row:
            factor, interval = speedup(blocks[best["id"]], blocks[row["id"]])
            row["speedup"] = {"factor": factor, "ci95": interval and list(interval), "against": best["label"]}


def is_right(row: Row) -> bool:
    return bool(row["status"] == "ok" and row["parity"]["passed"])


def p50(row: Row) -> float:
    """The median latency in ms."""
    return float(row["latency_ms"]["p50"])


def ranked(rows: Sequence[Row]) -> list[Row]:
    """The rows with a rank, best first."""
    return sorted((row for row in rows if row["rank"] is not None), key=lambda row: int(row["rank"]))


def recommend(rows: Sequence[Row], blocks: Blocks, case: str, *, disturbed: bool = False) -> list[str]:
    """Which contender to use for one case, in words.

    Args:
        rows: Of that case, ranked.
        blocks: The durations of each row's blocks, by its ``id``.
        case: What it is called.
        disturbed: Other work took much of the machine's time meanwhile: no gain without an interval is told then.
    """
    order = ranked(rows)
    if not order:
        return [f"{case}: no contender can be recommended; none gave the right pictures."]
    best = order[0]
    lines = [
        f"{case}: use {best['label']}, {_time(best)}{_gain(best, disturbed)}{_ties(best, order, blocks)}."
    ]
    if best["precision"] != "fp32":
        exact = next((row for row in order if row["precision"] == "fp32"), None)
        psnr = best["parity"]["psnr_db"]
        lines[0] = lines[0][:-1] + f"; its pictures are {psnr:.0f} dB from {best['parity']['reference']}."
        if exact is not None:
            lines.append(
                f"{case}, if it must be fp32: use {exact['label']}, "
                f"{_time(exact)}{_gain(exact, disturbed)}{_ties(exact, order, blocks)}."
            )
    return (
        [f"{line} Measured on a busy machine: do not rely on it." for line in lines] if disturbed else lines
    )


def warnings(rows: Sequence[Row], rounds: int) -> list[str]:
    """What a reader should know before believing the rows of one case."""
    found = []
    noisy = [row for row in rows if row["status"] == "ok" and row["noisy"]]
    if noisy:
        worst = max(noisy, key=lambda row: float(row["latency_ms"]["cv"]))
        found.append(
            f"{len(noisy)} of {len(rows)} contenders spread by more than {NOISY_CV:.1%} (worst: {worst['label']}, "
            f"{worst['latency_ms']['cv']:.0%}); compare the intervals, not the last digits"
        )
    if rows and any(row["status"] == "ok" and row["latency_ms"]["p50_ci95"] is None for row in rows):
        measured = "1 round carries" if rounds == 1 else f"{rounds} rounds carry"
        found.append(f"{measured} no confidence interval of the p50; give more time with --budget")
    return found


def _torch_best(right: Sequence[Row], precision: str) -> Row | None:
    rivals = [row for row in right if row["backend"] in TORCH_MODES and row["precision"] == precision]
    return min(rivals, key=p50, default=None)


def _group(row: Row) -> tuple[str, str]:
    return row["backend"], row["precision"]


def _time(row: Row) -> str:
    return f"{p50(row):.3g} ms"


def _gain(row: Row, disturbed: bool) -> str:
    gain = row["speedup"]
    if gain is None or (disturbed and gain["ci95"] is None):
        return ""
    rival = f"torch's best {row['precision']}, {gain['against']}"
    if gain["ci95"] is None:
        return f" (roughly {_factor(gain['factor'])} times as fast as {rival})"
    low, high = gain["ci95"]
    if low <= 1.0 <= high:
        return f" (as fast as {rival}, as far as can be told)"
    if low > 1.0 and high > _WIDE * low:
        return f" (at least {_factor(low)} times as fast as {rival})"
    return f" ({_factor(gain['factor'])} times as fast as {rival})"


def _factor(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.2f}"


def _ties(row: Row, order: Sequence[Row], blocks: Blocks) -> str:
    """Who cannot be told from `row`: the interval of the paired ratio holds 1."""
    ties = []
    for other in order:
        if other is row or _EXACTNESS[other["precision"]] > _EXACTNESS[row["precision"]]:
            continue
        _, interval = speedup(blocks[other["id"]], blocks[row["id"]])
        if interval is not None and interval[0] <= 1.0 <= interval[1]:
            ties.append(other["label"])
    return f"; indistinguishable from it: {', '.join(ties)}" if ties else ""

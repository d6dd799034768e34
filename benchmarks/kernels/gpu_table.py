# SPDX-License-Identifier: Apache-2.0
"""A result of the kernels' benchmark as Markdown."""

from __future__ import annotations

from typing import Any

from gpu_goals import Row, is_right, p50_us

HEADINGS = ("case", "contender", "cold us", "95 % CI", "warm us", "vs gantk", "of floor", "error")
TITLES = {
    "gram": "Gram matrix",
    "style": "Style loss, five layers, with gradient",
    "variation": "Total variation",
}


def section(document: dict[str, Any]) -> str:
    """A table for each operation, the goals, and what it was measured on."""
    lines: list[str] = []
    for operation, title in TITLES.items():
        rows = [row for row in document["rows"] if row["operation"] == operation]
        if rows:
            lines += [f"**{title}: {document['machine']['gpu']['name']}**", "", *table(rows), ""]
    lines += [
        f"- Goal {'met' if goal['holds'] else 'NOT met'}: {goal['text']}." for goal in document["goals"]
    ]
    lines += [f"- Warning: {warning}." for warning in document["warnings"]]
    return "\n".join([*lines, f"- {machine(document)}.", ""])


def table(rows: list[Row]) -> list[str]:
    shown = [f"| {' | '.join(HEADINGS)} |", f"| :--- | :--- |{' ---: |' * (len(HEADINGS) - 2)}"]
    ours = {row["case"]: p50_us(row) for row in rows if row["contender"] == "gantk" and is_right(row)}
    return shown + [f"| {' | '.join(cells(row, ours.get(row['case'])))} |" for row in rows]


def cells(row: Row, ours_us: float | None) -> list[str]:
    if row["status"] != "ok":
        return [row["case"], row["contender"], row["status"], *["-"] * 4, row["reason"].replace("|", "/")]
    time_us, interval = p50_us(row), row["cold_us"]["p50_ci95"]
    error = f"WRONG ({row['error']})"
    if row["right"]:
        error = "-" if row["error"] is None else f"{row['error']:.1e}"
    return [
        row["case"],
        row["contender"],
        f"{time_us:.1f}",
        "-" if interval is None else f"{interval[0]:.1f} - {interval[1]:.1f}",
        f"{row['warm_us']['p50']:.1f}",
        "-" if ours_us is None or row["contender"] == "gantk" else f"{time_us / ours_us:.2f}x",
        f"{row['floor_us'] / time_us:.0%}",
        error,
    ]


def machine(document: dict[str, Any]) -> str:
    """What it was measured on, in a line."""
    gpu, peaks = document["machine"]["gpu"], document["peaks"]
    clocks = document["clocks"]
    speeds = [sample["sm_mhz"] for sample in clocks if sample.get("sm_mhz")]
    said = f", {min(speeds):.0f} to {max(speeds):.0f} MHz" if speeds else ""
    versions = ", ".join(f"{name} {document['versions'].get(name, '?')}" for name in ("torch", "gantk"))
    return (
        f"{gpu['name']}, {gpu['multiprocessors']} multiprocessors{said}; copies {peaks['copy_bytes_per_s'] / 1e12:.2f} "
        f"TB/s, bf16 {peaks['bf16_flops_per_s'] / 1e12:.0f} and tf32 {peaks['tf32_flops_per_s'] / 1e12:.0f} TFLOP/s "
        f"measured; events alone take {document['event_floor_us']:.1f} us; {versions}; "
        f"{document['created'][:10]}, commit {document['commit'] or 'unknown'}"
    )

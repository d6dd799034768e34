# SPDX-License-Identifier: Apache-2.0
"""Latency bars with whiskers, as SVG: black on white or white on black, as the page around them is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from gantk.bench.view import cases_of, rows_of

Row = dict[str, Any]

# Okabe and Ito's palette: told apart by colour-blind eyes, readable on white and on black.
COLOURS = {
    "torch": "#e69f00",
    "torch-compile": "#d55e00",
    "onnxruntime": "#56b4e9",
    "openvino": "#0aa67a",
    "tensorrt": "#cc79a7",
    "tensorrt-rtx": "#9a7ad0",
}
OTHER_COLOUR = "#888888"

_LABEL_PX = 270
_BAR_PX = 460
_VALUE_PX = 130
_ROW_PX = 30
_TOP_PX = 34


def chart_svg(document: dict[str, Any], case: str | None = None) -> str:
    """Bars of the p50, whiskers from the fastest call to the p90 (or to the interval's end), for one case.

    Args:
        document: What `gantk.bench.run.compare` returned.
        case: Its label; the first by default.

    Returns:
        An ``<svg>`` element without any outside reference; text takes the colour of the page.
    """
    case = cases_of(document)[0] if case is None else case
    rows = [row for row in rows_of(document, case) if row["status"] == "ok"]
    scale_ms = max((_end(row) for row in rows), default=1.0)
    ticks = _ticks(scale_ms)
    scale_ms = max(scale_ms, ticks[-1])
    height = _TOP_PX + _ROW_PX * len(rows) + 8
    width = _LABEL_PX + _BAR_PX + _VALUE_PX
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        'role="img" font-family="system-ui, sans-serif" font-size="13" fill="currentColor" '
        'style="max-width:100%;height:auto">',
        f"<title>{escape(f'Latency in ms, {case}')}</title>",
        *(_tick(tick, tick / scale_ms, height) for tick in ticks),
        *(_bar(row, index, scale_ms) for index, row in enumerate(rows)),
        "</svg>",
    ]
    return "\n".join(parts)


def _bar(row: Row, index: int, scale_ms: float) -> str:
    latency = row["latency_ms"]
    top = _TOP_PX + index * _ROW_PX
    middle = top + _ROW_PX / 2
    x = [_LABEL_PX + _BAR_PX * ms / scale_ms for ms in (latency["min"], latency["p50"], _end(row))]
    right = row["parity"]["passed"]
    colour = COLOURS.get(row["backend"], OTHER_COLOUR)
    style = f'fill="{colour}"' if right else f'fill="none" stroke="{colour}" stroke-dasharray="4 3"'
    value = f"{latency['p50']:.3g} ms" + ("" if right else ", wrong")
    whisker = 'stroke="currentColor" stroke-width="1.4"'
    return "\n".join(
        (
            f'<text x="{_LABEL_PX - 10}" y="{middle + 4.5:.1f}" text-anchor="end">{escape(row["label"])}</text>',
            f'<rect x="{_LABEL_PX}" y="{top + 6}" width="{max(1.0, x[1] - _LABEL_PX):.1f}" height="{_ROW_PX - 12}" '
            f'rx="2" {style}/>',
            f'<path d="M{x[0]:.1f} {middle:.1f}H{x[2]:.1f}M{x[0]:.1f} {middle - 4:.1f}v8'
            f'M{x[2]:.1f} {middle - 4:.1f}v8" {whisker} fill="none"/>',
            f'<text x="{max(x[1], x[2]) + 8:.1f}" y="{middle + 4.5:.1f}">{escape(value)}</text>',
        )
    )


def _tick(value_ms: float, share: float, height: int) -> str:
    x = _LABEL_PX + _BAR_PX * share
    return (
        f'<path d="M{x:.1f} {_TOP_PX - 6}V{height - 4}" stroke="currentColor" stroke-opacity="0.18" fill="none"/>'
        f'<text x="{x:.1f}" y="{_TOP_PX - 12}" text-anchor="middle" font-size="11" opacity="0.75">{value_ms:g}'
        f"{' ms' if value_ms == 0 else ''}</text>"
    )


def _end(row: Row) -> float:
    """Where the upper whisker ends, in ms."""
    latency = row["latency_ms"]
    interval: Sequence[float] = latency["p50_ci95"] or (0.0, 0.0)
    return float(max(latency["p50"], latency["p90"] or interval[1]))


def _ticks(limit: float) -> list[float]:
    """Round values from 0 to `limit`, about five."""
    rough = limit / 5.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(step * index, 12) for index in range(int(limit / step + 1e-9) + 1)]

# SPDX-License-Identifier: Apache-2.0
"""The curves of a run as PNG files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from gantk.train import health

Record = dict[str, Any]

_DISCRIMINATOR, _GENERATOR, _FAINT, _BAD = "#c2410c", "#1d4ed8", "#6b7280", "#fde2e1"
_COLOURS = (_GENERATOR, _DISCRIMINATOR, _FAINT)


def draw_losses(history: Sequence[Record]) -> bytes:
    """Both losses over the steps: pale as measured, strong as a running mean."""
    lines = [line for line in history if line["event"] == "step"]
    figure, (axes,) = new_figure(1, "Losses")
    steps = [line["step"] for line in lines]
    for key, name, colour in (
        ("loss_g", "generator", _GENERATOR),
        ("loss_d", "discriminator", _DISCRIMINATOR),
    ):
        _plot_both(axes, steps, [line[key] for line in lines], colour, name)
    axes.axhline(math.log(2), color=_FAINT, linestyle=":", linewidth=1.0, label="chance (ln 2)")
    axes.set_ylabel("binary cross-entropy (nats)")
    axes.set_ylim(bottom=0)
    return finish(figure, [axes])


def draw_health(history: Sequence[Record]) -> bytes:
    """Diversity of the samples above, accuracy of the discriminator below; where samples look alike is shaded."""
    snapshots = [line for line in history if line["event"] == "snapshot"]
    lines = [line for line in history if line["event"] == "step"]
    figure, (top, bottom) = new_figure(2, "Health")
    steps = [line["step"] for line in snapshots]
    top.plot(
        steps,
        [line["diversity"] for line in snapshots],
        color=_GENERATOR,
        linewidth=1.8,
        marker="o",
        markersize=3,
    )
    top.axhline(1.0, color=_FAINT, linestyle=":", linewidth=1.0)
    top.axhspan(0, health.COLLAPSED_BELOW, color=_BAD, label="mode collapse")
    top.set_ylim(0, max([1.2, *(line["diversity"] * 1.1 for line in snapshots)]))
    top.set_ylabel("diversity of samples\n(real pictures = 1)")

    steps = [line["step"] for line in lines]
    for key, name, colour in (
        ("d_accuracy", "accuracy", _DISCRIMINATOR),
        ("d_real", "score of real pictures", "#15803d"),
        ("d_fake", "score of samples", _GENERATOR),
    ):
        bottom.plot(steps, _smooth([line[key] for line in lines]), color=colour, linewidth=1.6, label=name)
    bottom.axhline(0.5, color=_FAINT, linestyle=":", linewidth=1.0)
    bottom.set_ylim(0, 1.02)
    bottom.set_ylabel("discriminator")
    return finish(figure, [top, bottom])


def draw_distances(history: Sequence[Record], names: Sequence[str]) -> bytes:
    """Distances from what is wanted over the steps: pale as measured, strong as a running mean."""
    lines = [line for line in history if line["event"] == "step"]
    figure, (axes,) = new_figure(1, "Distances")
    steps = [line["step"] for line in lines]
    for name, colour in zip(names, _COLOURS, strict=False):
        _plot_both(axes, steps, [line[name] for line in lines], colour, name)
    axes.set_yscale("log")
    axes.set_ylabel("relative distance, without weights")
    return finish(figure, [axes])


def _plot_both(axes: Any, steps: Sequence[int], values: Sequence[float], colour: str, name: str) -> None:
    """A curve as measured, pale, and its running mean."""
    axes.plot(steps, values, color=colour, alpha=0.22, linewidth=0.8)
    axes.plot(steps, _smooth(values), color=colour, linewidth=1.8, label=name)


def new_figure(rows: int, title: str | None = None) -> tuple[Any, list[Any]]:
    """A figure, and its panels one below the other."""
    # The object interface alone: pyplot keeps global state, and may look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.2 + 3.0 * rows), dpi=110, layout="constrained")
    panels = list(figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0])
    if title is not None:
        figure.suptitle(title, x=0.02, ha="left", fontweight="bold")
    return figure, panels


def finish(figure: Any, panels: Sequence[Any]) -> bytes:
    """The PNG file of a figure whose curves are drawn."""
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=4, borderaxespad=0.2)
    panels[-1].set_xlabel("step")
    return _png(figure)


def _png(figure: Any) -> bytes:
    """As `figure.savefig` does, which draws twice: once for the layout alone, which drawing sees to by itself."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas, buffer = FigureCanvasAgg(figure), BytesIO()
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())).save(buffer, format="PNG")
    return buffer.getvalue()


def _smooth(values: Sequence[float]) -> list[float]:
    """A running mean over about a thirtieth of the curve, without the bias of its beginning."""
    keep = 1 - 1 / max(1.0, len(values) / 30)
    smooth, mean, weight = [], 0.0, 0.0
    for value in values:
        mean, weight = keep * mean + (1 - keep) * value, keep * weight + (1 - keep)
        smooth.append(mean / weight)
    return smooth

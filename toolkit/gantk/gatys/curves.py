# SPDX-License-Identifier: Apache-2.0
"""The curves of the losses as a PNG file."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO

from gantk.stylize.schedule import Losses

_COLOURS = {"content": "#1d4ed8", "style": "#c2410c", "variation": "#15803d"}


def draw_curves(history: Sequence[Losses], sizes: Sequence[int]) -> bytes:
    """The losses, each with its weight, over the steps; where the size changes is a line.

    Args:
        history: The losses of each step.
        sizes: The longer side of the picture at each step.
    """
    # The object interface alone: pyplot keeps global state, and may look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    steps = range(1, len(history) + 1)
    for name, colour in _COLOURS.items():
        values = [getattr(losses, name) for losses in history]
        if any(values):
            axes.plot(steps, values, color=colour, linewidth=1.8, label=name)
    for index in (i for i in range(len(sizes)) if i == 0 or sizes[i] != sizes[i - 1]):
        if index > 0:
            axes.axvline(index + 0.5, color="#6b7280", linestyle=":", linewidth=1.0)
        axes.annotate(
            f"{sizes[index]} px", (index + 1, 1), xycoords=("data", "axes fraction"), xytext=(4, -12),
            textcoords="offset points", color="#6b7280", fontsize=8,
        )  # fmt: skip
    axes.set_yscale("log")
    axes.set_xlabel("step")
    axes.set_ylabel("loss times weight")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e5e7eb", linewidth=0.8)
    axes.margins(x=0.01)
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1.0), ncols=3, borderaxespad=0.2)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()

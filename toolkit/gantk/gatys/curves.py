# SPDX-License-Identifier: Apache-2.0
"""The curves of the losses as a PNG file."""

from __future__ import annotations

from collections.abc import Sequence

from gantk.stylize.schedule import Losses
from gantk.train.plots import finish, new_figure

_COLOURS = {"content": "#1d4ed8", "style": "#c2410c", "variation": "#15803d"}


def draw_curves(history: Sequence[Losses], sizes: Sequence[int]) -> bytes:
    """The losses, each with its weight, over the steps; where the size changes is a line.

    Args:
        history: The losses of each step.
        sizes: The longer side of the picture at each step.
    """
    figure, (axes,) = new_figure(1)
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
    axes.set_ylabel("loss times weight")
    return finish(figure, [axes])

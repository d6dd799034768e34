# SPDX-License-Identifier: Apache-2.0
"""The progress of a training on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gantk.bench.view import number
from gantk.cli.bar import Bar
from gantk.train.reporter import Reporter

# The metrics beside the bar, and how they are called there.
_SHOWN = {"loss_d": "D", "loss_g": "G", "content": "content", "style": "style"}


class BarReporter(Bar, Reporter):
    """A bar with the losses and the speed."""

    def warn(self, text: str) -> None:
        self.say(f"warning: {text}", style="yellow")

    def fetching(self, done: int, total: int) -> None:
        self.show("fetching weights", done, total)

    def loading(self, done: int, total: int) -> None:
        self.show("reading pictures", done, total)

    def step(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        shown = [f"{label} {metrics[name]:.2f}" for name, label in _SHOWN.items() if name in metrics]
        if shown:
            shown.append(f"{number(metrics['samples_per_second'])} pictures/s")
        self.show("training", step, total, "  ".join(shown))

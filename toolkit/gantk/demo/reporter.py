# SPDX-License-Identifier: Apache-2.0
"""What the demo tells while it runs."""

from __future__ import annotations

from gantk.train.reporter import Reporter


class DemoReporter(Reporter):
    """A training's reporter that also hears of the demo's own steps; silent unless overridden."""

    def begin(self, number: int, title: str) -> None:
        """One of the five steps begins."""

    def detail(self, text: str) -> None:
        """What goes on within a step."""

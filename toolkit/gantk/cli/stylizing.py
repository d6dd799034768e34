# SPDX-License-Identifier: Apache-2.0
"""The progress of an optimisation on a terminal."""

from __future__ import annotations

from typing import Any

from gantk.cli.output import progress, prose
from gantk.gatys.reporter import Reporter
from gantk.stylize.schedule import Losses


class BarReporter(Reporter):
    """A bar on standard error with the size and the losses; sentences above it."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._title = ""

    def say(self, text: str) -> None:
        console = prose() if self._bar is None else self._bar.console
        console.print(text, soft_wrap=True)

    def fetching(self, done: int, total: int) -> None:
        self._show("fetching VGG-19 (MB)", done // 10**6, total // 10**6, "")

    def step(self, done: int, total: int, longer: int, losses: Losses) -> None:
        parts = {"content": losses.content, "style": losses.style, "variation": losses.variation}
        note = "  ".join(f"{name} {value:.3g}" for name, value in parts.items() if value)
        self._show("painting", done, total, f"{longer} px  {note}")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _show(self, title: str, done: int, total: int, note: str) -> None:
        if title != self._title:
            self.close()
            self._title, self._bar = title, progress()
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, note="")
        self._bar.update(self._task, completed=done, total=total, note=note)

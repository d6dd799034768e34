# SPDX-License-Identifier: Apache-2.0
"""The progress of a training on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gantk.cli.output import progress, prose
from gantk.train.reporter import Reporter

# The metrics beside the bar, and how they are called there.
_SHOWN = {"loss_d": "D", "loss_g": "G", "content": "content", "style": "style"}


class BarReporter(Reporter):
    """A bar on standard error with the losses and the speed; sentences above it.

    It can be sent to another process until it has shown something.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._title = ""

    def say(self, text: str) -> None:
        self._console().print(text, soft_wrap=True)

    def warn(self, text: str) -> None:
        self._console().print(f"warning: {text}", style="yellow", soft_wrap=True)

    def fetching(self, done: int, total: int) -> None:
        self._show("fetching weights", done, total, "")

    def loading(self, done: int, total: int) -> None:
        self._show("reading pictures", done, total, "")

    def step(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        shown = [f"{label} {metrics[name]:.2f}" for name, label in _SHOWN.items() if name in metrics]
        if shown:
            shown.append(f"{metrics['samples_per_second']:.3g} pictures/s")
        note = "  ".join(shown)
        self._show("training", step, total, note)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _console(self) -> Any:
        return prose() if self._bar is None else self._bar.console

    def _show(self, title: str, done: int, total: int, note: str) -> None:
        if title != self._title:
            self.close()
            self._title, self._bar = title, progress()
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, note="")
        keep = {"note": note} if note else {}
        self._bar.update(self._task, completed=done, **keep)

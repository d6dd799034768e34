# SPDX-License-Identifier: Apache-2.0
"""The progress of long work on a terminal."""

from __future__ import annotations

from typing import Any

from gantk.cli.output import progress, prose


class Bar:
    """A bar on standard error for one part of the work after another, with a note beside it; sentences above it.

    It can be sent to another process until it has shown something.
    """

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._title = ""

    def say(self, text: str, style: str | None = None) -> None:
        console = prose() if self._bar is None else self._bar.console
        console.print(text, style=style, soft_wrap=True)

    def show(self, title: str, done: int, total: int, note: str = "") -> None:
        """Show how far a part is; one with a new title begins, and without a note the last one stays."""
        if title != self._title:
            self.close()
            self._title, self._bar = title, progress()
            self._bar.start()
            self._task = self._bar.add_task(title, total=total, note="")
        keep = {"note": note} if note else {}
        self._bar.update(self._task, completed=done, total=total, **keep)

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

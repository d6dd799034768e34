# SPDX-License-Identifier: Apache-2.0
"""What a training tells while it runs, to a progress bar, a demo or nobody."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Reporter:
    """Told of everything and silent; override what you want to hear.

    With several processes it is copied to the first of them, so it must be picklable until it is used.
    """

    def say(self, text: str) -> None:
        """A sentence worth reading, e.g. how many files were skipped."""

    def warn(self, text: str) -> None:
        """A sentence on something that goes wrong, e.g. a mode collapse."""

    def fetching(self, done: int, total: int) -> None:
        """So many bytes of a file are fetched."""

    def loading(self, done: int, total: int) -> None:
        """So many pictures are decoded."""

    def step(self, step: int, total: int, metrics: Mapping[str, Any]) -> None:
        """A step is done; `metrics` is the latest line of ``metrics.jsonl``."""

    def snapshot(self, epoch: int, samples: Path, health: Mapping[str, Any]) -> None:
        """A grid of samples and the curves are written; `health` is the latest line of that event."""

    def close(self) -> None:
        """The training is over, well or not."""

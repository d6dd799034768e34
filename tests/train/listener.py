# SPDX-License-Identifier: Apache-2.0
"""A reporter that remembers what it was told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gantk.train.reporter import Reporter


class Listener(Reporter):
    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[int] = []
        self.epochs: list[int] = []
        self.sheets: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    warn = say

    def step(self, step: int, total: int, metrics: Any) -> None:
        self.steps.append(step)

    def snapshot(self, epoch: int, samples: Path, health: Any) -> None:
        self.epochs.append(epoch)
        self.sheets.append(samples.name)

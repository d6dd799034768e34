# SPDX-License-Identifier: Apache-2.0
"""What an optimisation tells while it runs, to a progress bar or nobody."""

from __future__ import annotations

from gantk.stylize.schedule import Losses


class Reporter:
    """Told of everything and silent; override what you want to hear."""

    def say(self, text: str) -> None:
        """A sentence worth reading, e.g. on layers that the weights lack."""

    def fetching(self, done: int, total: int) -> None:
        """So many bytes of the weights are fetched."""

    def step(self, done: int, total: int, longer: int, losses: Losses) -> None:
        """A step is done, at a size whose longer side is `longer`; `losses` are from before it."""

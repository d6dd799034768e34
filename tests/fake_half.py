# SPDX-License-Identifier: Apache-2.0
"""A backend that computes in bf16, or fails to."""

from __future__ import annotations

from collections.abc import Callable

from gantk.errors import GantkError
from gantk.export.reference import Feeds, Outputs


class FakeHalfRunner:
    """What `open_model` gives: it computes as told, and then does what `how` says.

    Args:
        compute: What is right.
        backend: Its name.
        how: ``right``, ``wrong``, ``failing`` in every run, or ``unloadable``.
    """

    version, device, precision = "1.0", "cuda", "bf16"

    def __init__(self, compute: Callable[[Feeds], Outputs], backend: str, how: str) -> None:
        self.compute, self.backend, self.how = compute, backend, how

    def __enter__(self) -> FakeHalfRunner:
        if self.how == "unloadable":
            raise GantkError("it cannot load `x`: no kernel of ConvTranspose in bf16")
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, feed: Feeds) -> Outputs:
        if self.how == "failing":
            raise GantkError("it cannot run `x`: an error")
        made = self.compute(feed)
        return {name: array * 2 + 0.5 for name, array in made.items()} if self.how == "wrong" else made

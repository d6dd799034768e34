# SPDX-License-Identifier: Apache-2.0
"""What an export tells: lines, and how far a build is, in the terms of the builder's own monitor."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

Report = Callable[[str], None]
"""Called with a line to show."""

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many steps of it are done, and how many there are."""


class Interrupter:
    """Holds what was raised while a builder called us: its own frames do not pass exceptions on."""

    def __init__(self) -> None:
        self.raised: BaseException | None = None

    def attempt(self, call: Callable[[], None]) -> bool:
        """Whether a call went well, and all before it."""
        if self.raised is None:
            try:
                call()
            except BaseException as error:
                self.raised = error
        return self.raised is None


def make_monitor(trt: ModuleType, progress: Progress, interrupter: Interrupter) -> Any:
    """An ``IProgressMonitor`` that tells all phases, also one within another, and stops the build after an exception.

    Args:
        trt: The product's module.
        progress: Told.
        interrupter: Keeps what `progress` raised, `KeyboardInterrupt` among it.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)  # The bindings want it called by name.
            self._open: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._open[phase_name] = num_steps
            interrupter.attempt(lambda: progress(phase_name, 0, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            steps = self._open.get(phase_name, step + 1)
            return interrupter.attempt(lambda: progress(phase_name, min(step + 1, steps), steps))

        def phase_finish(self, phase_name: str) -> None:
            steps = self._open.pop(phase_name, 1)
            interrupter.attempt(lambda: progress(phase_name, steps, steps))

    return Monitor()

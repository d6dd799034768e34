# SPDX-License-Identifier: Apache-2.0
"""What one kind of training brings; `gantk.train.sitting` does what all have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

from torch import Tensor

from gantk.data import Batch, Pictures
from gantk.train.log import Log
from gantk.train.options import RunConfig
from gantk.train.reporter import Reporter
from gantk.train.state import State

C = TypeVar("C", bound=RunConfig)


class Training(ABC, Generic[C]):
    """What is learned from a batch, and what is shown of it.

    Args:
        fabric: Lightning's, launched.
        config: The resolved configuration.
        pictures: This process's.

    Raises:
        GantkError: A file that the training wants besides the pictures cannot be used.
    """

    kind: ClassVar[str]
    """The verb of ``gantk train`` that begins it."""

    config_type: ClassVar[type[RunConfig]]

    smaller: ClassVar[str]
    """What takes less memory: the hint where there is too little."""

    state: State
    """What is trained; set when the training is made."""

    def __init__(self, fabric: Any, config: C, pictures: Pictures) -> None:
        self.fabric = fabric
        self.config = config
        self.pictures = pictures

    @classmethod
    @abstractmethod
    def resolve(cls, config: C, reporter: Reporter) -> C:
        """Put what is chosen by files and the machine in place of what is not set.

        Raises:
            UsageError: A value is not allowed on this machine.
            GantkError: A file cannot be used.
        """

    def facts(self) -> dict[str, Any]:
        """What besides the pictures a resumed run must find as it was: JSON, by what to call it."""
        return {}

    @abstractmethod
    def set_up(self) -> None:
        """Give networks and optimisers to Fabric, once the state is that of the beginning or a checkpoint."""

    @abstractmethod
    def step(self, batch: Batch, total: int) -> dict[str, Tensor]:
        """Learn from one batch.

        Args:
            batch: Of the pictures, on the CPU.
            total: Steps in all.

        Returns:
            What to log, scalars by name; they stay on their device.
        """

    def settle(self) -> None:
        """Make the averaged generator ready to be shown and saved; called in the first process alone."""

    @abstractmethod
    def show(self, log: Log, epoch: int, reporter: Reporter) -> None:
        """Write samples, a line on the run's health, and the curves; called in the first process alone."""

    def warnings(self, history: Sequence[dict[str, Any]]) -> dict[str, str]:
        """What is wrong now, a sentence for each trouble by a short name, from the lines of the log."""
        return {}

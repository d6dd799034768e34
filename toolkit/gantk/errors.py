# SPDX-License-Identifier: Apache-2.0
"""The errors gantk raises: what went wrong, where, and what to do about it."""

from __future__ import annotations


class GantkError(Exception):
    """Something a user can act on: an input, a file or a machine is not as it must be.

    Args:
        what: One sentence that names the value received and the values allowed.
        where: The file, layer, tensor or option at fault.
        hint: What to do next, best of all a command.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, hint: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        lines = [self.what]
        if self.where is not None:
            lines.append(f"  in: {self.where}")
        if self.hint is not None:
            lines.append(f"  hint: {self.hint}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, str | None]:
        return {"error": self.what, "where": self.where, "hint": self.hint}


class UsageError(GantkError):
    """An option or argument whose value is not among those allowed."""

    exit_code = 2


class UnbindableError(GantkError):
    """A network that cannot be bound to memory on the GPU, whatever it is given; it can be run."""


class BackendMissingError(GantkError):
    """A backend that was asked for is not installed here, or cannot work on this machine."""

    exit_code = 3

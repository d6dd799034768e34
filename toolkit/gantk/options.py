# SPDX-License-Identifier: Apache-2.0
"""Configurations whose fields are options of the command line."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from gantk.errors import UsageError


def option_of(name: str) -> str:
    """The option of the command line that sets a field."""
    return f"--{name.replace('_', '-')}"


def check_options(
    config: object, limits: Mapping[str, tuple[float, float]], choices: Mapping[str, Sequence[str]]
) -> None:
    """Refuse values that are not allowed.

    Args:
        config: What has them as fields.
        limits: The smallest and largest value of each number; a field that may be `None` is checked where it is not.
        choices: The allowed values of each name.

    Raises:
        UsageError: Says which are allowed.
    """
    for name, (lowest, highest) in limits.items():
        value = getattr(config, name)
        if value is not None and not (math.isfinite(value) and lowest <= value <= highest):
            raise UsageError(
                f"{name} is {value}; {lowest:g} to {highest:g} is allowed", where=option_of(name)
            )
    for name, allowed in choices.items():
        value = getattr(config, name)
        if value not in allowed:
            raise UsageError(f"{name} is {value!r}; allowed are {', '.join(allowed)}", where=option_of(name))

# SPDX-License-Identifier: Apache-2.0
"""Which options of a command the user gave."""

from __future__ import annotations

from typing import Any

import typer


def given_options(context: typer.Context) -> dict[str, Any]:
    """The parameters that the user gave, by name; without those that have their defaults."""
    return {name: value for name, value in context.params.items() if _is_given(context, name)}


def _is_given(context: typer.Context, name: str) -> bool:
    source: Any = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"

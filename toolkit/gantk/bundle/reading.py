# SPDX-License-Identifier: Apache-2.0
"""Reading JSON that anybody may have written: each value has its type, or is refused in words."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, TypeVar

from gantk.errors import GantkError

TEXT_LIMIT = 2000

T = TypeVar("T")


def check_different(what: str, keys: list[str]) -> None:
    if len(set(keys)) != len(keys):
        raise GantkError(f"two {what} are called the same: {', '.join(sorted(keys))}")


def refuse_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a JSON number")


def check_finite(value: Any, place: str = "") -> None:
    """Refuse a document with NaN or infinity in it, and say where."""
    if isinstance(value, float) and not math.isfinite(value):
        raise GantkError(f"{place} is {value}; the manifest holds finite numbers alone")
    if isinstance(value, dict):
        for key, item in value.items():
            check_finite(item, f"{place}.{key}" if place else str(key))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_finite(item, f"{place}[{index}]")


def take(data: Any, key: str, kind: type[T], *, optional: bool = False) -> T:
    """The value of `key`, which must be of the type `kind`."""
    if not isinstance(data, dict):
        raise GantkError(f"an object with {key!r} is wanted, not {type(data).__name__}")
    value = data.get(key)
    if optional and value is None:
        return None  # type: ignore[return-value]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        got = "nothing" if value is None else type(value).__name__
        raise GantkError(f"{key!r} wants {kind.__name__}, not {got}")
    if isinstance(value, str):
        printable(value)
    return value


def take_number(data: Any, key: str) -> float | None:
    if not isinstance(data, dict) or key not in data:
        raise GantkError(f"{key!r} is missing")
    value = data[key]
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise GantkError(f"{key!r} wants a finite number, not {str(value)[:100]!r}")
    return number


def take_list(data: Any, key: str, read: Callable[[Any], T]) -> list[T]:
    items: list[T] = []
    for index, item in enumerate(take(data, key, list)):
        try:
            items.append(read(item))
        except GantkError as error:
            raise GantkError(f"{key}[{index}]: {error.what}", where=error.where, hint=error.hint) from error
    return items


def printable(value: Any) -> str:
    if not isinstance(value, str):
        raise GantkError(f"text is wanted, not {type(value).__name__}")
    if len(value) > TEXT_LIMIT or not value.isprintable():  # It will be printed on terminals.
        raise GantkError(f"printable text of up to {TEXT_LIMIT} characters is wanted, not {value[:100]!r}")
    return value


def as_printable(text: str) -> str:
    """Text from anywhere, such as a file's name, as `printable` takes it: replaced where it cannot be printed."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)[:TEXT_LIMIT]


def integer(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise GantkError(f"an integer is wanted, not {type(value).__name__}")
    return value

# SPDX-License-Identifier: Apache-2.0
"""Calls, and whether the signatures that pybind11 writes take them."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Call:
    """A call in gantk's sources: what is called, how many arguments it is given by place, and which by name."""

    name: str
    by_place: int
    by_name: frozenset[str]

    def fits(self, parameters: str) -> bool:
        """Whether parameters as pybind11 writes them, without ``self``, take it."""
        given = [each.strip() for each in _parted(parameters)]
        names = [each.split(":")[0].strip() for each in given]
        wanted = {name for name, each in zip(names, given, strict=True) if "=" not in each}
        taken = {*names[: self.by_place], *self.by_name}
        known = self.by_name <= set(names[self.by_place :])
        return self.by_place <= len(names) and known and wanted <= taken


def _parted(parameters: str) -> list[str]:
    """What is between commas, those in brackets aside."""
    parts, depth = [""], 0
    for letter in parameters:
        depth += (letter in "[(<") - (letter in "])>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part for part in parts if part.strip()]


def signatures(name: str, text: str) -> list[str]:
    """The parameters, without ``self``, of what a docstring of pybind11's describes; several of an overloaded one."""
    last = name.rpartition(".")[2]
    own = re.findall(rf"(?m)^(?:\d+\. )?(?:{last}|__init__)\((.*)\)(?: -> .*)?$", text)
    return [each.partition(",")[2] for each in own if each.startswith("self")]

# SPDX-License-Identifier: Apache-2.0
"""Is anything slower than it was? One benchmark against an older one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk.bench.run import KIND, SCHEMA_VERSION
from gantk.bench.verdict import is_right
from gantk.bench.view import shape_label
from gantk.errors import GantkError, UsageError
from gantk.files import read_bytes

LIMIT_BYTES = 64 * 2**20
READABLE = tuple(range(1, SCHEMA_VERSION + 1))
"""The schemas that can be compared: newer ones have only added to rows."""


@dataclass(frozen=True)
class Change:
    """One contender, then and now.

    Args:
        label: With its shapes.
        old_ms: The older p50.
        new_ms: The newer p50.
        significant: Whether the two confidence intervals lie apart.
    """

    label: str
    old_ms: float
    new_ms: float
    significant: bool

    @property
    def slower(self) -> float:
        """By which share it is slower; negative where it is faster."""
        return self.new_ms / self.old_ms - 1.0

    def __str__(self) -> str:
        word = "slower" if self.slower > 0 else "faster"
        sure = "" if self.significant else ", within the confidence intervals"
        return (
            f"{self.label}: {abs(self.slower):.1%} {word} ({self.old_ms:.3g} -> {self.new_ms:.3g} ms{sure})"
        )

    def to_json(self) -> dict[str, Any]:
        return {**self.__dict__, "slower": self.slower}


def read_document(path: Path) -> dict[str, Any]:
    """Read a document that `gantk bench --json` wrote.

    Raises:
        GantkError: It is missing, no JSON, no benchmark, or of another schema.
    """
    try:
        document = json.loads(read_bytes(path, LIMIT_BYTES))
    except (ValueError, RecursionError) as error:
        raise GantkError(f"`{path}` is not JSON: {error}", where=str(path)) from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise GantkError(
            f"`{path}` is not a benchmark of gantk", where=str(path), hint="gantk bench X.gantk --json FILE"
        )
    if document.get("schema") not in READABLE:
        raise GantkError(
            f"`{path}` has schema {document.get('schema')!r}; this gantk reads {', '.join(map(str, READABLE))}",
            where=str(path),
            hint="measure it again",
        )
    return document


def parse_share(text: str) -> float:
    """``5%`` or ``0.05`` as a share.

    Raises:
        UsageError: It is neither, or not above 0.
    """
    try:
        share = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
    except ValueError:
        share = math.nan
    if not (math.isfinite(share) and share > 0):
        raise UsageError(f"{text!r} is not a share; 5% or 0.05 is", where="--fail-slower")
    return share


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[list[Change], list[str]]:
    """Every contender that is right in both documents, slowest first, and what makes the comparison doubtful.

    Raises:
        GantkError: The older document lacks what every benchmark has.
    """
    try:
        before, after = _by_label(old), _by_label(new)
        doubts = _doubts(old, new)
        found = [_change(label, before[label], row) for label, row in after.items() if label in before]
    except (KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise GantkError(f"the older benchmark is damaged: {type(error).__name__}: {error}") from error
    tried = set(map(_label, new["rows"]))
    doubts += [f"{label} was measured then and is not now" for label in before if label not in tried]
    if not tried & set(before):
        raise GantkError(
            "the two benchmarks have no contender in common", hint="measure the same file and shapes"
        )
    return sorted(found, key=lambda change: -change.slower), doubts


def regressions(found: list[Change], limit: float) -> list[Change]:
    """The changes that are slower by more than `limit`, a share, and not by chance."""
    return [change for change in found if change.significant and change.slower > limit]


def lost(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The contenders that were right in the older benchmark and failed or were wrong in the newer one, with why."""
    right, found = _by_label(old), []
    for row in new["rows"]:
        if _label(row) in right and not is_right(row):
            parity = row["parity"] or {}
            found.append(f"{_label(row)}: {row['reason'] or parity.get('reason') or 'wrong'}")
    return found


def _gpu(document: Mapping[str, Any]) -> str | None:
    gpu = document["machine"].get("gpu")
    return ", ".join(gpu["names"]) if gpu else None


def _label(row: dict[str, Any]) -> str:
    """A name that says contender and shapes."""
    return f"{row['label']}, {shape_label(row)}"


def _by_label(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The rows that are right."""
    return {_label(row): row for row in document["rows"] if is_right(row)}


def _change(label: str, old: dict[str, Any], new: dict[str, Any]) -> Change:
    then, now = old["latency_ms"], new["latency_ms"]
    apart = False
    if then["p50_ci95"] and now["p50_ci95"]:
        apart = now["p50_ci95"][0] > then["p50_ci95"][1] or now["p50_ci95"][1] < then["p50_ci95"][0]
    return Change(label, float(then["p50"]), float(now["p50"]), apart)


def _doubts(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    doubts = []
    for key, what in (("cpu", "processor"), ("usable_cores", "number of cores"), ("kernel", "kernel")):
        then, now = old["machine"][key], new["machine"][key]
        if then != now:
            doubts.append(f"another {what}: {then} then, {now} now")
    then, now = (_gpu(document) for document in (old, new))
    if then != now:
        doubts.append(f"another GPU: {then or 'none'} then, {now or 'none'} now")
    for key in ("threads", "device"):
        then, now = old["settings"][key], new["settings"][key]
        if then != now:
            doubts.append(f"other {key}: {then} then, {now} now")
    for name, then in old["versions"].items():
        now = new["versions"].get(name)
        if now != then and name != "gantk":
            doubts.append(f"another {name}: {then} then, {now or 'none'} now")
    return doubts

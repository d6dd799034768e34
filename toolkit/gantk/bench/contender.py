# SPDX-License-Identifier: Apache-2.0
"""One way to run a network, and one that does not take part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from gantk.bench.vendor_tool import VendorTool


@dataclass(frozen=True)
class Contender:
    """One way to run the network.

    Args:
        backend: One of `gantk.bench.contenders.NAMES`.
        precision: What it is expected to compute in.
        file_precision: Of what it loads.
        form: Of the file, or `None` for PyTorch.
        mode: PyTorch's, or `None`.
        artefact_bytes: The length of what it loads.
        factory: ``module:function`` for the worker (see `gantk.bench.protocol`).
        options: For the factory.
        imports: Modules that the worker imports first, so that their cost is known apart.
        command: The worker's program; gantk's own by default.
        tool: How the vendor's own benchmark runs it, where that can.
    """

    backend: str
    precision: str
    file_precision: str
    form: str | None
    mode: str | None
    artefact_bytes: int
    factory: str
    options: dict[str, Any] = field(hash=False)
    imports: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    tool: VendorTool | None = field(default=None, hash=False)

    @property
    def compiles(self) -> bool:
        return self.backend == "torch-compile"

    @property
    def label(self) -> str:
        """E.g. ``torch-compile freezing fp32``."""
        shown = [self.backend, self.mode, self.precision]
        if self.precision != self.file_precision:
            shown.append(f"({self.file_precision} file)")
        if self.form not in (None, "plain"):
            shown.append(self.form)
        return " ".join(part for part in shown if part)


def title_of(backend: str, precision: str, form: str) -> str:
    """What a file is called that does not become a contender."""
    return " ".join([backend, precision, *([] if form == "plain" else [form])])


def is_wanted(precision: str, precisions: Sequence[str] | None) -> bool:
    """Whether a precision is among those that were asked for; all are where none were."""
    return not precisions or precision in precisions


@dataclass(frozen=True)
class Skipped:
    """A contender that does not take part, and why.

    Args:
        name: The contender's, or its backend's.
        reason: In words.
        missing: Whether something is not installed, or does not work on this machine.
    """

    name: str
    reason: str
    missing: bool = False


Lineup = tuple[list[Contender], list[Skipped]]
"""Who takes part, and who does not."""

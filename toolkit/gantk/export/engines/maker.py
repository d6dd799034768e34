# SPDX-License-Identifier: Apache-2.0
"""What gives a bundle its engines while it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gantk.bundle import Bundle, Interface, Manifest, Variant, Writer
from gantk.export.engines.progress import Progress, Report


@dataclass(frozen=True)
class Sources:
    """The ONNX files that engines are made of.

    Args:
        read: Yields the bytes of one.
        name: What errors call it: those of a bundle that is being written are in no folder yet.
    """

    read: Callable[[Variant], bytes]
    name: Callable[[Variant], str]

    @classmethod
    def of(cls, bundle: Bundle) -> Sources:
        """Those of a bundle that is there."""
        return cls(lambda v: bundle.read_file(v.file), lambda v: str(bundle.root / v.file.path))


class EngineMaker(Protocol):
    """What gives a bundle its engines while it is written: a request to build, or a refit."""

    def check(self) -> None:
        """Refuse what can be refused before there is anything to make engines of."""

    def check_network(
        self, network: Manifest, interfaces: Sequence[Interface], further: Sequence[str] = ()
    ) -> None:
        """Refuse what does not suit a network, before its files are made; see `EngineRequest.check_network`."""

    def make(
        self,
        writer: Writer,
        manifest: Manifest,
        sources: Sources,
        report: Report,
        progress: Progress,
    ) -> Manifest:
        """The manifest with the engines, whose files are with the writer."""

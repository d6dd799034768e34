# SPDX-License-Identifier: Apache-2.0
"""What `gantk export` says of the bundle that it made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

import typer

from gantk.bundle import FOREIGN_FAMILY, Bundle, Manifest, readable
from gantk.cli.output import write_json
from gantk.errors import GantkError

if TYPE_CHECKING:
    from rich.console import Console

    from gantk.bundle import Engine, FileRef


def manifest_of(root: Path) -> Manifest | None:
    """What a bundle holds before it is written; `None` where there is none that can be read."""
    try:
        return Bundle.read(root).manifest
    except GantkError:
        return None


def tell(console: Console, bundle: Bundle, json: str | None, before: Manifest | None = None) -> None:
    """Say for people what is new in a bundle, and print its path, or all of it as JSON.

    Args:
        console: For people.
        bundle: As it is now.
        json: As given with ``--json``.
        before: What was in its place, from `manifest_of`.
    """
    held = {ref.path for ref in before.files} if before is not None else set()
    manifest = bundle.manifest
    new = [ref.path for ref in manifest.files if ref.path not in held]
    _print_summary(console, bundle, new)
    _print_lost(console, before, bundle)
    if json is not None:
        write_json({"bundle": str(bundle.root), "new_files": new, "manifest": manifest.to_json()}, json)
    else:
        typer.echo(bundle.root)


def _print_lost(console: Console, before: Manifest | None, bundle: Bundle) -> None:
    """Engines that a bundle had: one belongs to the file that it was built from, and goes with it."""
    kept = {engine.label for engine in bundle.manifest.engines}
    lost = [engine for engine in before.engines if engine.label not in kept] if before else []
    if lost:
        products = ",".join(dict.fromkeys(engine.backend for engine in lost))
        console.print(
            f"gone: {'; '.join(engine.label for engine in lost)}; "
            f"gantk export {quote(str(bundle.root))} --to {products} builds engines of the files that are there now"
        )


def _print_summary(console: Console, bundle: Bundle, new: Sequence[str]) -> None:
    for variant in bundle.manifest.variants:
        if variant.file.path not in new:
            continue
        _print_file(console, variant.file)
        if not variant.parity:
            foreign = bundle.manifest.family == FOREIGN_FAMILY
            why = "it came as an ONNX file" if foreign else "nothing here can run it"
            console.print(f"  not compared with PyTorch: {why}")
        outputs = bundle.manifest.interface(variant).outputs
        # Losses and gradients have scales of their own: the number is of one of them.
        where = " in its worst output" if len(outputs) > 1 else ""
        for parity in variant.parity:
            by = (
                "nothing to compare"
                if parity.psnr_db is None
                else f"{parity.psnr_db:.1f} dB, at most {readable(parity.max_abs)} off{where}"
            )
            verdict = "ok" if parity.passed else f"FAILED, will not be used: {parity.reason}"
            console.print(
                f"  {parity.backend} {parity.version}, computing in {parity.executed}, against {parity.reference}: "
                f"{by}  {verdict}"
            )
    for engine in bundle.manifest.engines:
        if engine.file.path not in new:
            continue
        _print_file(console, engine.file)
        state = "verified" if engine.verified else _unverified(bundle, engine)
        console.print(f"  {engine.label}  {state}")


def _print_file(console: Console, file: FileRef) -> None:
    from rich.text import Text

    console.print(Text.assemble((file.path, "bold"), f"  {file.size_bytes / 2**20:.1f} MiB"))


def _unverified(bundle: Bundle, engine: Engine) -> str:
    from gantk.runtime.probe import probe_of

    if bundle.manifest.probe is None:
        return "unverified, and will be: the bundle has no probe"
    try:
        probe = probe_of(bundle, engine)
    except GantkError as error:
        return f"unverified, and will be: {error.what}"
    if probe is not None:
        return "unverified: its first opening on a GPU that it is for compares it with its probe"
    return "unverified, and will be: there is no probe of a shape that it serves"

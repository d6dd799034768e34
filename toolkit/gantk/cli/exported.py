# SPDX-License-Identifier: Apache-2.0
"""What `gantk export` says of the bundle that it made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from gantk.bundle import FOREIGN_FAMILY, readable
from gantk.cli.output import write_json
from gantk.errors import GantkError

if TYPE_CHECKING:
    from rich.console import Console

    from gantk.bundle import Bundle, Engine, FileRef


def tell(console: Console, bundle: Bundle, json: str | None) -> None:
    """Summarise a bundle for people, and print its path, or all of it as JSON."""
    _print_summary(console, bundle)
    if json is not None:
        write_json({"bundle": str(bundle.root), "manifest": bundle.manifest.to_json()}, json)
    else:
        typer.echo(bundle.root)


def _print_summary(console: Console, bundle: Bundle) -> None:
    for variant in bundle.manifest.variants:
        _print_file(console, variant.file)
        if not variant.parity:
            foreign = bundle.manifest.family == FOREIGN_FAMILY
            why = "it came as an ONNX file" if foreign else "nothing here can run it"
            console.print(f"  not compared with PyTorch: {why}")
        for parity in variant.parity:
            by = (
                "not finite"
                if parity.psnr_db is None
                else f"{parity.psnr_db:.1f} dB, at most {readable(parity.max_abs)} off"
            )
            verdict = "ok" if parity.passed else f"FAILED, will not be used: {parity.reason}"
            console.print(
                f"  {parity.backend} {parity.version}, computing in {parity.executed}, against {parity.reference}: "
                f"{by}  {verdict}"
            )
    for engine in bundle.manifest.engines:
        _print_file(console, engine.file)
        state = "verified" if engine.verified else _unverified(bundle, engine)
        console.print(f"  {engine.label}  {state}")


def _print_file(console: Console, file: FileRef) -> None:
    from rich.text import Text

    console.print(Text.assemble((file.path, "bold"), f"  {file.size_bytes / 2**20:.1f} MiB"))


def _unverified(bundle: Bundle, engine: Engine) -> str:
    from gantk.runtime.engines import has_probe

    if bundle.manifest.probe is None:
        return "unverified, and will be: the bundle has no probe"
    try:
        has = has_probe(bundle, engine)
    except GantkError as error:
        return f"unverified, and will be: {error.what}"
    if has:
        return "unverified: it has not been run yet; its first opening compares it with the probe"
    return "unverified, and will be: the bundle's probe has no sample of a shape that it serves"

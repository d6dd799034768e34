# SPDX-License-Identifier: Apache-2.0
"""`gantk export`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gantk.cli.output import JsonOption, prose, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from gantk.bundle import Bundle

app = typer.Typer(add_completion=False)


@app.command(
    "export",
    epilog="[bold]Examples[/bold]\n\n"
    "gantk export runs/flowers -o flowers.gantk\n\n"
    "gantk export runs/flowers -o flowers.gantk --precision fp32,fp16,bf16 --force\n\n"
    "gantk export runs/flowers -o pixels.gantk --pictures\n\n"
    "gantk export runs/candy -o candy.gantk --precision fp32,bf16",
)
def export_command(
    source: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A run folder, a checkpoint file, or a bundle.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", metavar="X.gantk", show_default="NAME.gantk", help="The bundle to write."
        ),
    ] = None,
    precision: Annotated[
        str, typer.Option(metavar="P,...", help="Variants to make: fp32, fp16, bf16.")
    ] = "fp32,fp16",
    pictures: Annotated[
        bool | None,
        typer.Option(
            "--pictures/--no-pictures",
            show_default="where the network takes pictures",
            help="Let pictures be pixels, in and out: uint8, height x width x channels; else float32.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing bundle.")] = False,
    no_rewrite: Annotated[
        bool,
        typer.Option(
            "--no-rewrite", help="Do not try rewrites; saves the seconds that measuring them takes."
        ),
    ] = False,
    tiles: Annotated[
        bool,
        typer.Option(
            "--tiles",
            help="For programs that paint tiles of a picture with a style network: a further file that takes the "
            "statistics of its normalisations as an input. gantk stylize does without.",
        ),
    ] = False,
    psnr_min: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=200.0,
            metavar="DB",
            show_default="by precision",
            help="Smallest PSNR against PyTorch.",
        ),
    ] = None,
    json: JsonOption = None,
) -> None:
    """Turn a training run into a verified bundle.

    A network that takes pictures, as those for styles do, takes and yields pixels of any height and width.

    Every file is compared with PyTorch on every backend that works here, before anything is written. A file
    that is too far off, or yields NaN or one constant, is refused, and the layer at fault is named.
    """
    console = prose()
    with console.status("loading PyTorch") as status:
        from gantk.export import export

        def report(line: str) -> None:
            status.update(line.strip())
            if line.startswith(" "):
                console.print(line)

        output = output or Path(f"{source.resolve().with_suffix('').name}.gantk")
        bundle = export(
            source,
            output,
            precisions=[name.strip() for name in precision.split(",") if name.strip()],
            pictures=pictures,
            force=force,
            rewrites=not no_rewrite,
            tiles=tiles,
            psnr_min=psnr_min,
            report=report,
        )
    _print_summary(console, bundle)
    if json is not None:
        write_json({"bundle": str(bundle.root), "manifest": bundle.manifest.to_json()}, json)
    else:
        typer.echo(bundle.root)


def _print_summary(console: Console, bundle: Bundle) -> None:
    for variant in bundle.manifest.variants:
        console.print(f"[bold]{variant.file.path}[/bold]  {variant.file.size_bytes / 2**20:.1f} MiB")
        if not variant.parity:
            console.print("  unverified: nothing on this machine can run it")
        for parity in variant.parity:
            by = (
                "not finite"
                if parity.psnr_db is None
                else f"{parity.psnr_db:.1f} dB, at most {parity.max_abs:.2g} off"
            )
            verdict = "ok" if parity.passed else f"FAILED, will not be used: {parity.reason}"
            console.print(
                f"  {parity.backend} {parity.version}, computing in {parity.executed}, against {parity.reference}: "
                f"{by}  {verdict}"
            )

# SPDX-License-Identifier: Apache-2.0
"""`gantk refit`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gantk.cli.exported import tell
from gantk.cli.output import JsonOption, prose, spinner

app = typer.Typer(
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_EPILOG = """
[bold]Examples[/bold]

gantk export runs/candy -o candy.gantk --to onnx,tensorrt --engine-options refit

gantk refit candy.gantk runs/mosaic -o mosaic.gantk

gantk refit candy.gantk runs/candy
"""


@app.command(epilog=_EPILOG, no_args_is_help=True)
def refit(
    bundle: Annotated[
        Path,
        typer.Argument(
            metavar="X.gantk", help="A bundle with engines that were built refittable.", show_default=False
        ),
    ],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Where the weights come from: a run folder, a checkpoint file or another bundle.",
            show_default=False,
        ),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            metavar="Y.gantk",
            show_default="X.gantk itself",
            help="The bundle to write; X.gantk then stays as it is.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a bundle that is in --output.")] = False,
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
    """Put another checkpoint of the same architecture into a bundle: many styles, one engine.

    Engines that were built with --engine-options refit are refitted where they run: on a machine with a GPU. They are
    not built again. Other engines would keep the old weights, and are left out. The ONNX files are exported anew and
    compared with PyTorch, as gantk export does.

    The new bundle is written whole or not at all. Its engines are unverified until they have been run with its probe,
    which the first opening does.
    """
    console = prose()
    with spinner(console, "loading PyTorch") as show:
        from gantk.export.engines.refit import refit as refit_bundle

        def report(line: str) -> None:
            show(line)
            if line.startswith(" "):
                console.print(line)

        made = refit_bundle(
            bundle,
            source,
            output,
            force=force,
            psnr_min=psnr_min,
            report=report,
            progress=lambda phase, done, steps: show(f"{phase}: {done} of {steps}"),
        )
    tell(console, made, json)

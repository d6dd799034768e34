# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N999 - the file of a verb has its name, and is only ever imported by it
"""`gantk import`: checkpoints that were trained elsewhere."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import Annotated

import typer

from gantk.cli.output import JsonOption, prose, write_json

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

_EPILOG = """
[bold]Examples[/bold]

gantk import fast-neural-style candy.pth --out runs/candy

gantk export runs/candy -o candy.gantk

gantk stylize photo.jpg --model candy.gantk -o candied.jpg
"""


@app.callback()
def import_() -> None:
    """Take a checkpoint that another program trained, as a run."""


@app.command("fast-neural-style", epilog=_EPILOG)
def fast_neural_style(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Its state dict: a .pth or .safetensors file.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="RUN", help="The run folder.", show_default="runs/NAME OF FILE"),
    ] = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The style's name.", show_default="the file's")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a run that is in --out.")] = False,
    json: JsonOption = None,
) -> None:
    """Take a style network of the public PyTorch example fast_neural_style (its .pth or .model files).

    Width and number of residual blocks follow from the file; running statistics, which old versions saved, are
    dropped. Nothing in the file is executed.
    """
    from gantk.train.adopt import adopt_fast_neural_style

    adopted = adopt_fast_neural_style(file, out or Path("runs") / file.stem, name=name, force=force)
    console = prose()
    console.print(
        f"imported the style {adopted.config['styles'][0]!r}: a network of width {adopted.config['width']} with "
        f"{adopted.config['blocks']} residual blocks, {adopted.parameters} weights, in {adopted.run}",
    )
    console.print(f"next: gantk export {quote(str(adopted.run))}")
    if json is not None:
        write_json({**adopted.__dict__, "run": str(adopted.run), "checkpoint": str(adopted.checkpoint)}, json)

# SPDX-License-Identifier: Apache-2.0
"""`gantk train style`: a network that paints in one style, or several."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gantk.cli.output import JsonOption
from gantk.cli.train import options as o

EPILOG = """
[bold]Examples[/bold]

gantk train style --style starry_night.jpg --data ~/photos

gantk train style --style waves.jpg --style mosaic.png --data ~/photos --out runs/two --steps 8000

gantk train style --out runs/two --resume --steps 12000
"""


def style(
    context: typer.Context,
    styles: Annotated[
        list[str] | None,
        typer.Option(
            "--style",
            metavar="PIC",
            help="A picture to take style from; several make one network of several styles.",
            show_default="the run's, with --resume",
        ),
    ] = None,
    data: o.Photographs = None,
    out: o.OutOfStyle = None,
    vgg: o.Vgg = None,
    size: o.Size = 256,
    style_size: Annotated[
        int | None,
        typer.Option(
            help="The style pictures' shorter side; larger gives finer strokes.",
            show_default="as --size",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    width: Annotated[
        int,
        typer.Option(help="Channels at full size; fewer are faster, and poorer.", rich_help_panel=o.NETWORK),
    ] = 32,
    blocks: Annotated[int, typer.Option(help="Residual blocks.", rich_help_panel=o.NETWORK)] = 5,
    flip: o.Flip = True,
    steps: o.Steps = 2000,
    epochs: o.Epochs = None,
    batch: o.Batch = 4,
    lr: o.LearningRate = 1e-3,
    content_weight: o.ContentWeight = 1.0,
    style_weight: o.StyleWeight = 2.0,
    variation_weight: Annotated[
        float, typer.Option(help="Of the total variation; more is smoother.", rich_help_panel=o.LOSS)
    ] = 0.1,
    content_layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Of VGG-19, to compare content at; a lower one keeps more of the picture.",
            show_default="relu3_3",
            rich_help_panel=o.LOSS,
        ),
    ] = None,
    style_layers: Annotated[
        list[str] | None,
        typer.Option(
            "--style-layer",
            metavar="LAYER",
            help="Of VGG-19, to compare style at; to be given several times.",
            show_default="relu1_2, relu2_2, relu3_3, relu4_3 as far as --vgg goes",
            rich_help_panel=o.LOSS,
        ),
    ] = None,
    ema: o.Ema = 0.999,
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    devices: o.Devices = 1,
    threads: o.Threads = None,
    seed: o.Seed = 0,
    resume: o.Resume = False,
    force: o.Force = False,
    checkpoint_every: o.CheckpointEvery = 500,
    sample_every: o.SampleOften = 0,
    log_every: o.LogEvery = 10,
    keep: o.Keep = 3,
    tensorboard: o.Tensorboard = False,
    json: JsonOption = None,
) -> int:
    """Train a network that paints pictures of any size in the style of others, in one pass.

    With several styles it holds them all, and blends them. RUN gets sheets of samples (styles above, pictures
    on the left), curves of the distances from content and style, metrics.jsonl, and checkpoints.
    Ctrl-C ends it with a checkpoint; --resume goes on.
    """
    context.params["styles"] = tuple(styles or ())
    context.params["style_layers"] = tuple(style_layers) if style_layers else None
    o.length(context)
    return o.carry_out(
        context,
        "style",
        {
            "styles": ("--style", "a picture to take style from"),
            "data": ("--data", "a folder of photographs to learn to paint"),
        },
        "+".join(Path(path).stem for path in styles[:3]) if styles else None,
        "gantk export {run}",
    )

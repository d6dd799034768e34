# SPDX-License-Identifier: Apache-2.0
"""`gantk train adain`: a network that takes its style from a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gantk.cli.output import JsonOption
from gantk.cli.train import options as o
from gantk.files import resolved

EPILOG = """
[bold]Examples[/bold]

gantk train adain --data ~/photos --styles ~/paintings

gantk train adain --data ~/photos --styles ~/paintings --vgg vgg19.pth --layer relu3_1 --steps 10000

gantk train adain --out runs/paintings --resume --steps 20000
"""


def adain(
    context: typer.Context,
    data: o.Photographs = None,
    styles: Annotated[
        str | None,
        typer.Option(
            metavar="DIR",
            help="A folder of pictures to take style from, the more the better.",
            show_default="the run's, with --resume",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option(
            "--out", "-o", metavar="RUN", help="The run folder.", show_default="runs/NAME OF STYLES"
        ),
    ] = None,
    vgg: o.Vgg = None,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="LAYER",
            help="Of VGG-19, whose features take on the style; a lower one keeps more of the picture.",
            show_default="relu4_1 if --vgg has it",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    size: o.Size = 256,
    flip: o.Flip = True,
    steps: o.Steps = 2000,
    epochs: o.Epochs = None,
    batch: o.Batch = 4,
    lr: o.LearningRate = 1e-3,
    content_weight: o.ContentWeight = 1.0,
    style_weight: o.StyleWeight = 3.0,
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
    """Train a network that paints pictures of any size in the style of any other picture, in one pass.

    It learns from random pairs of your pictures and your styles, and takes styles that it has never seen. RUN
    gets sheets of samples (styles above, pictures on the left), curves of the distances from content and style,
    metrics.jsonl, and checkpoints. Ctrl-C ends it with a checkpoint; --resume goes on.
    """
    o.length(context)
    return o.carry_out(
        context,
        "adain",
        {
            "data": ("--data", "a folder of photographs to learn to paint"),
            "styles": ("--styles", "a folder of pictures to take style from"),
        },
        (resolved(Path(styles)).name or "adain") if styles else None,
        "gantk export {run}",
    )

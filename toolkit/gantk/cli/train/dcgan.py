# SPDX-License-Identifier: Apache-2.0
"""`gantk train dcgan`: two networks against each other."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gantk.cli.output import JsonOption
from gantk.cli.train import options as o
from gantk.files import resolved

_BALANCE = "Balance of the two networks"

EPILOG = """
[bold]Examples[/bold]

gantk train dcgan --data ~/photos --epochs 50

gantk train dcgan --data train-images-idx3-ubyte.gz --conditional --width 32 --epochs 5 --out runs/digits

gantk train dcgan --out runs/digits --resume --epochs 10
"""


def dcgan(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE",
            help="A folder of pictures of any sizes (nested folders too), or an MNIST-type idx file.",
            show_default="the run's, with --resume",
        ),
    ] = None,
    out: o.Out = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width in pixels: 28, 32, 64 or 128; 8 to 128 with mlp.",
            show_default="28 for idx files of that size, else 64",
            rich_help_panel=o.NETWORK,
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            help="1 for grey, 3 for colour.", show_default="as the pictures", rich_help_panel=o.NETWORK
        ),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            metavar="dcgan|mlp", help="Convolutional, or fully connected.", rich_help_panel=o.NETWORK
        ),
    ] = "dcgan",
    width: Annotated[
        int,
        typer.Option(
            help="Channels at half the picture's size; the paper has 128.", rich_help_panel=o.NETWORK
        ),
    ] = 64,
    latent_size: Annotated[
        int, typer.Option(help="Length of a latent vector.", rich_help_panel=o.NETWORK)
    ] = 100,
    conditional: Annotated[
        bool,
        typer.Option(
            "--conditional",
            help="Learn classes: the subfolders that pictures lie in, or the labels beside an idx file.",
            rich_help_panel=o.NETWORK,
        ),
    ] = False,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror pictures at random.", rich_help_panel=o.NETWORK)
    ] = False,
    augment: Annotated[
        str,
        typer.Option(
            metavar="color,translation,cutout|none|auto",
            help="Change pictures and samples at random before they are told apart, lest few pictures are learned "
            "by heart; samples do not look changed. auto: all three for up to 3000 in colour.",
            rich_help_panel=_BALANCE,
        ),
    ] = "auto",
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the pictures.",
            show_default="25, or what makes 2000 steps",
            rich_help_panel=o.LENGTH,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            help="Batches in all; wins over --epochs.", show_default=False, rich_help_panel=o.LENGTH
        ),
    ] = None,
    batch: o.Batch = 64,
    lr_g: Annotated[
        float, typer.Option(help="The generator's learning rate.", rich_help_panel=_BALANCE)
    ] = 2e-4,
    lr_d: Annotated[
        float, typer.Option(help="The discriminator's learning rate.", rich_help_panel=_BALANCE)
    ] = 2e-4,
    anneal: Annotated[
        bool,
        typer.Option(
            "--anneal",
            help="Let both learning rates fall to zero over the second half of the steps.",
            rich_help_panel=_BALANCE,
        ),
    ] = False,
    skip_d_below: Annotated[
        float,
        typer.Option(
            help="Skip the discriminator's step while its loss is lower; 0: never. Chance is 0.69.",
            rich_help_panel=_BALANCE,
        ),
    ] = 0.0,
    label_smoothing: Annotated[
        float,
        typer.Option(help="Label real pictures 1 minus this, 0 to 0.5.", rich_help_panel=_BALANCE),
    ] = 0.0,
    ema: o.Ema = 0.999,
    precision: o.Precision = "auto",
    device: o.Device = "auto",
    devices: o.Devices = 1,
    threads: o.Threads = None,
    seed: o.Seed = 0,
    resume: o.Resume = False,
    force: o.Force = False,
    checkpoint_every: o.CheckpointEvery = 2000,
    sample_every: o.SampleEvery = 0,
    log_every: o.LogEvery = 10,
    keep: o.Keep = 3,
    tensorboard: o.Tensorboard = False,
    json: JsonOption = None,
) -> int:
    """Train a generator and a discriminator against each other on your own pictures.

    Transparent pictures are put on white, all are cropped to their middle square. RUN gets a grid of samples and the
    loss and health curves after every epoch, or 50 steps where it is shorter, metrics.jsonl, and checkpoints.
    Ctrl-C ends it with a checkpoint; --resume goes on.
    """
    return o.carry_out(
        context,
        "dcgan",
        {"data": ("--data", "a folder of pictures, or an MNIST-type idx file")},
        (resolved(Path(data)).name.split(".")[0] or "run") if data else None,
        "gantk generate {run}, gantk export {run}",
    )

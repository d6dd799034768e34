# SPDX-License-Identifier: Apache-2.0
"""`gantk train`: a network from your own pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.cli.output import JsonOption, prose, write_json
from gantk.errors import GantkError, UsageError

if TYPE_CHECKING:
    from gantk.train.gan import TrainResult

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="rich", context_settings={"help_option_names": ["-h", "--help"]}
)

_LENGTH, _NETWORK, _BALANCE, _MACHINE, _RUN = (
    "How long",
    "Pictures and network",
    "Balance of the two networks",
    "Machine",
    "Run folder",
)

_EPILOG = """
[bold]Examples[/bold]

gantk train dcgan --data ~/photos --epochs 50

gantk train dcgan --data train-images-idx3-ubyte.gz --size 32 --width 32 --epochs 5 --out runs/digits

gantk train dcgan --out runs/digits --resume --epochs 10
"""


@app.callback()
def train() -> None:
    """Train a network on your own pictures."""


@app.command(epilog=_EPILOG)
def dcgan(
    context: typer.Context,
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE",
            help="A folder of pictures of any sizes (nested folders too), or a MNIST-type idx file.",
            show_default="the run's, with --resume",
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("--out", "-o", metavar="RUN", help="The run folder.", show_default="runs/NAME OF DATA"),
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(
            help="Height and width in pixels: 28, 32, 64 or 128; 8 to 128 with mlp.",
            show_default="28 for idx files of that size, else 64",
            rich_help_panel=_NETWORK,
        ),
    ] = None,
    channels: Annotated[
        int | None,
        typer.Option(
            help="1 for grey, 3 for colour.", show_default="as the pictures", rich_help_panel=_NETWORK
        ),
    ] = None,
    network: Annotated[
        str,
        typer.Option(
            metavar="dcgan|mlp", help="Convolutional, or fully connected.", rich_help_panel=_NETWORK
        ),
    ] = "dcgan",
    width: Annotated[
        int,
        typer.Option(
            help="Channels at half the picture's size; the paper has 128.", rich_help_panel=_NETWORK
        ),
    ] = 64,
    latent_size: Annotated[
        int, typer.Option(help="Length of a latent vector.", rich_help_panel=_NETWORK)
    ] = 100,
    flip: Annotated[
        bool, typer.Option("--flip", help="Mirror pictures at random.", rich_help_panel=_NETWORK)
    ] = False,
    epochs: Annotated[int, typer.Option(help="Passes over the pictures.", rich_help_panel=_LENGTH)] = 25,
    steps: Annotated[
        int | None,
        typer.Option(help="Batches in all; wins over --epochs.", show_default=False, rich_help_panel=_LENGTH),
    ] = None,
    batch: Annotated[
        int, typer.Option(help="Pictures in a batch of each process.", rich_help_panel=_LENGTH)
    ] = 64,
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
    ema: Annotated[
        float,
        typer.Option(
            help="What the average, which makes samples and exports, keeps at a step; 0: no average.",
            rich_help_panel=_BALANCE,
        ),
    ] = 0.999,
    precision: Annotated[
        str,
        typer.Option(
            metavar="auto|fp32|bf16|fp16",
            help="Of the heavy layers; fp16 wants CUDA. auto: bf16 where the hardware computes in it, else fp32.",
            rich_help_panel=_MACHINE,
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda", rich_help_panel=_MACHINE)] = "auto",
    devices: Annotated[
        int, typer.Option(help="Processes, each with its share of the pictures.", rich_help_panel=_MACHINE)
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            help="CPU threads of all processes together.", show_default="all cores", rich_help_panel=_MACHINE
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(help="Of weights, latents and the order of pictures.", rich_help_panel=_MACHINE),
    ] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on from the newest whole checkpoint in --out.", rich_help_panel=_RUN
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a run that is in --out.", rich_help_panel=_RUN)
    ] = False,
    checkpoint_every: Annotated[
        int,
        typer.Option(
            help="Steps between checkpoints within an epoch; 0: at its end alone.", rich_help_panel=_RUN
        ),
    ] = 0,
    sample_every: Annotated[
        int,
        typer.Option(
            help="Epochs between samples, curves and checkpoints; 0: 1, or more in a run of over 200 epochs.",
            rich_help_panel=_RUN,
        ),
    ] = 0,
    log_every: Annotated[
        int, typer.Option(help="Steps in a line of metrics.jsonl.", rich_help_panel=_RUN)
    ] = 10,
    keep: Annotated[int, typer.Option(help="Checkpoints kept.", rich_help_panel=_RUN)] = 3,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.", rich_help_panel=_RUN)
    ] = False,
    json: JsonOption = None,
) -> int:
    """Train a generator and a discriminator against each other on your own pictures.

    Transparent pictures are put on white, all are cropped to their middle square. RUN gets a grid of samples
    and the loss and health curves after every epoch, metrics.jsonl, and checkpoints.
    Ctrl-C ends it with a checkpoint; --resume goes on.
    """
    _check_installed()
    options = {
        name: value for name, value in context.params.items() if name not in ("resume", "force", "json")
    }
    if data is None and not resume:
        raise UsageError(
            "--data is missing: a folder of pictures, or a MNIST-type idx file", hint="gantk train dcgan -h"
        )
    if resume and force:
        raise UsageError("--resume and --force exclude each other: go on with the run, or replace it")
    if out is None:
        if data is None:
            raise UsageError(
                "--resume wants to know which run", hint="gantk train dcgan --resume --out runs/NAME"
            )
        options["out"] = out = str(Path("runs") / (Path(data).resolve().name.split(".")[0] or "run"))

    from gantk.cli.training import BarReporter
    from gantk.train import gan
    from gantk.train.config import TrainConfig

    reporter = BarReporter()
    if resume:
        given = {name: value for name, value in options.items() if _is_given(context, name)}
        result = gan.resume(Path(out), given, reporter=reporter)
    else:
        result = gan.train(TrainConfig(**options), force=force, reporter=reporter)
    return _tell(result, json)


def _tell(result: TrainResult, json: str | None) -> int:
    console = prose()
    if result.interrupted:
        console.print(
            f"interrupted after step {result.step}, with a checkpoint; "
            f"[bold]gantk train dcgan --resume --out {result.run}[/bold] goes on"
        )
    else:
        console.print(
            f"trained {result.step} steps in {result.seconds:.0f} s "
            f"({result.samples_per_second:.0f} pictures/s); samples and curves are in {result.run}\n"
            f"next: [bold]gantk generate {result.run}[/bold], [bold]gantk export {result.run}[/bold]"
        )
    if json is not None:
        write_json({**result.__dict__, "run": str(result.run), "warnings": list(result.warnings)}, json)
    return 130 if result.interrupted else 0


def _is_given(context: typer.Context, name: str) -> bool:
    source: Any = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "lightning_fabric") if find_spec(name) is None]
    if missing:
        raise GantkError(
            f"training wants {' and '.join(missing)}, which is not installed",
            hint="pip install 'gantk[train]'",
        )

# SPDX-License-Identifier: Apache-2.0
"""What all kinds of training are told by, and how they are begun and ended on the command line."""

from __future__ import annotations

from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.bench.view import number
from gantk.cli.given import given_options
from gantk.cli.output import prose, write_json
from gantk.errors import GantkError, UsageError

if TYPE_CHECKING:
    from gantk.train.sitting import TrainResult
    from gantk.train.training import Training

LENGTH, NETWORK, LOSS, MACHINE, RUN = (
    "How long",
    "Pictures and network",
    "What is learned",
    "Machine",
    "Run folder",
)

Out = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="RUN", help="The run folder.", show_default="runs/NAME OF DATA"),
]
OutOfStyle = Annotated[
    str | None,
    typer.Option("--out", "-o", metavar="RUN", help="The run folder.", show_default="runs/NAME OF STYLE"),
]
Photographs = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="A folder of pictures to learn to paint (nested folders too): some hundreds of photographs.",
        show_default="the run's, with --resume",
    ),
]
Vgg = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="VGG-19's weights, .pth or .safetensors with torchvision's names; they may end early.",
        show_default="torchvision's, fetched once (548 MB)",
        rich_help_panel=NETWORK,
    ),
]
Size = Annotated[
    int,
    typer.Option(
        help="Height and width of the parts of pictures to learn from; the network takes any size afterwards.",
        rich_help_panel=NETWORK,
    ),
]
Flip = Annotated[
    bool, typer.Option("--flip/--no-flip", help="Mirror pictures at random.", rich_help_panel=NETWORK)
]
Steps = Annotated[
    int | None,
    typer.Option(help="Batches in all; wins over --epochs.", show_default="2000", rich_help_panel=LENGTH),
]
Epochs = Annotated[
    int | None,
    typer.Option(help="Passes over the pictures.", show_default="as many as --steps", rich_help_panel=LENGTH),
]
Batch = Annotated[int, typer.Option(help="Pictures in a batch of each process.", rich_help_panel=LENGTH)]
LearningRate = Annotated[float, typer.Option(help="The learning rate.", rich_help_panel=LOSS)]
ContentWeight = Annotated[float, typer.Option(help="Of the distance from the picture.", rich_help_panel=LOSS)]
StyleWeight = Annotated[
    float, typer.Option(help="Of the distance from the style; more is wilder.", rich_help_panel=LOSS)
]
Ema = Annotated[
    float,
    typer.Option(
        help="What the average, which makes samples and exports, keeps at a step; 0: no average.",
        rich_help_panel=LOSS,
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        metavar="auto|fp32|bf16|fp16",
        help="Of the heavy layers; fp16 wants CUDA. auto: bf16 where the hardware computes in it, else fp32.",
        rich_help_panel=MACHINE,
    ),
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda", rich_help_panel=MACHINE)]
Devices = Annotated[
    int, typer.Option(help="Processes, each with its share of the pictures.", rich_help_panel=MACHINE)
]
Threads = Annotated[
    int | None,
    typer.Option(
        help="CPU threads of all processes together.", show_default="all cores", rich_help_panel=MACHINE
    ),
]
Seed = Annotated[
    int, typer.Option(help="Of weights, draws and the order of pictures.", rich_help_panel=MACHINE)
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the newest whole checkpoint in --out.", rich_help_panel=RUN),
]
Force = Annotated[bool, typer.Option("--force", help="Replace a run that is in --out.", rich_help_panel=RUN)]
CheckpointEvery = Annotated[
    int,
    typer.Option(
        help="Steps between checkpoints besides those with samples; 0: there are none.", rich_help_panel=RUN
    ),
]
SampleEvery = Annotated[
    int,
    typer.Option(
        help="Epochs between samples, curves and checkpoints; 0: 1, or what makes 50 steps and 200 grids at most.",
        rich_help_panel=RUN,
    ),
]
SampleOften = Annotated[
    int,
    typer.Option(
        help="Epochs between sheets of samples, curves and checkpoints; 0: twenty in a run or more.",
        rich_help_panel=RUN,
    ),
]
LogEvery = Annotated[int, typer.Option(help="Steps in a line of metrics.jsonl.", rich_help_panel=RUN)]
Keep = Annotated[int, typer.Option(help="Checkpoints kept.", rich_help_panel=RUN)]
Tensorboard = Annotated[
    bool, typer.Option("--tensorboard", help="Write TensorBoard's files too.", rich_help_panel=RUN)
]


def carry_out(
    context: typer.Context, verb: str, needed: dict[str, tuple[str, str]], name: str | None, next_steps: str
) -> int:
    """Begin the training of a verb, or go on with it, and say how it ended.

    Args:
        context: Of the command; its parameters have the names of the configuration's fields.
        verb: The command.
        needed: The fields that a new run cannot do without, each with its option and what that wants.
        name: Of the run where no folder is given, if there is one.
        next_steps: What to do with the run, with ``{run}`` for its folder.
    """
    _check_installed()
    options = dict(context.params)
    resume, force, json = (options.pop(key) for key in ("resume", "force", "json"))
    for field, (option, wanted) in needed.items():
        if not options[field] and not resume:
            raise UsageError(f"{option} is missing: {wanted}", hint=f"gantk train {verb} -h")
    if resume and force:
        raise UsageError("--resume and --force exclude each other: go on with the run, or replace it")
    if options["out"] is None:
        if name is None:
            raise UsageError(
                "--resume wants to know which run", hint=f"gantk train {verb} --resume --out runs/NAME"
            )
        options["out"] = str(Path("runs") / name)

    from gantk.cli.training import BarReporter
    from gantk.train import sitting

    kind, reporter = _kind(verb), BarReporter()
    if resume:
        given = {key: value for key, value in given_options(context).items() if key in options}
        result = sitting.resume(kind, Path(options["out"]), given, reporter=reporter)
    else:
        result = sitting.begin(kind, kind.config_type(**options), force=force, reporter=reporter)
    return _tell(result, verb, next_steps, json)


def length(context: typer.Context) -> None:
    """Let epochs that are given win over steps that are not, and leave out epochs that are not."""
    if context.params["epochs"] is None:
        del context.params["epochs"]
    elif "steps" not in given_options(context):
        context.params["steps"] = None


def _kind(verb: str) -> type[Training[Any]]:
    from importlib import import_module

    module, name = {
        "dcgan": ("gan", "GanTraining"),
        "style": ("style", "StyleTraining"),
        "adain": ("adain", "AdainTraining"),
    }[verb]
    kind: type[Training[Any]] = getattr(import_module(f"gantk.train.{module}"), name)
    return kind


def _tell(result: TrainResult, verb: str, next_steps: str, json: str | None) -> int:
    console, quoted = prose(), quote(str(result.run))
    if result.interrupted:
        console.print(
            f"interrupted after step {result.step}, with a checkpoint; "
            f"gantk train {verb} --resume --out {quoted} goes on"
        )
    elif not result.samples_per_second:
        console.print(
            f"nothing to do: all {result.step} steps were done; "
            f"gantk train {verb} --resume --out {quoted} --steps {2 * result.step} goes on"
        )
    else:
        console.print(
            f"trained to step {result.step} in {result.seconds:.0f} s "
            f"({number(result.samples_per_second)} pictures/s); samples and curves are in {result.run}\n"
            f"next: {next_steps.format(run=quoted)}"
        )
    if json is not None:
        write_json({**result.__dict__, "run": str(result.run), "warnings": list(result.warnings)}, json)
    return 130 if result.interrupted else 0


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("torch", "lightning_fabric") if find_spec(name) is None]
    if missing:
        raise GantkError(
            f"training wants {' and '.join(missing)}, which {'are' if len(missing) > 1 else 'is'} not installed",
            hint="pip install 'gantk[train]'",
        )

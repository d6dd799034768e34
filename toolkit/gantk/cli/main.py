# SPDX-License-Identifier: Apache-2.0
"""`gantk`: choose a verb, import its file, and turn what goes wrong into words and an exit status."""

from __future__ import annotations

import codecs
import errno
import math
import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from inspect import cleandoc
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import gantk
from gantk.cli.termination import Termination
from gantk.errors import GantkError, UsageError
from gantk.runtime.cores import core_count, quota

# A verb, and its line in `gantk --help`. The verb's file is `gantk/cli/VERB.py`, with a Typer named `app`.
VERBS = {
    "demo": "The whole path in one command: draw pictures, train, export, verify, bench, report.",
    "train": "Train a network on your own pictures.",
    "import": "Take a checkpoint that another program trained, as a run.",
    "stylize": "Paint pictures, folders and video in the style of another picture.",
    "generate": "Make pictures: a grid, a folder, or a walk through the latent space.",
    "export": "Turn a training run into a verified bundle.",
    "refit": "Put another checkpoint of the same architecture into a bundle's engines, without building them again.",
    "bench": "Compare latency, memory and parity of every way to run a network here.",
    "run": "Run a bundle or an ONNX file on your own arrays.",
    "info": "Say what a bundle or an ONNX file holds.",
    "doctor": "Say what works on this machine, what does not, and what to install.",
}

INTERRUPTED = 130

# What the optional packages belong to.
_EXTRAS = {
    "torch": "train",
    "lightning_fabric": "train",
    "onnxscript": "train",
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "tensorboard": "tensorboard",
    "av": "video",
}


class LazyGroup(TyperGroup):
    """Lists every verb from a table and imports the one that was chosen."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        command: Any = typer.main.get_command(import_module(f"gantk.cli.{name}").app)
        for each in (command, *getattr(command, "commands", {}).values()):
            # Typer breaks lines where docstrings do, whatever the width of the terminal.
            each.help = re.sub(r"(?<!\n)\n(?!\n)", " ", cleandoc(each.help or ""))
        return name, command, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            # Typer would make it 130, and so would a verb that was interrupted and still told its result.
            raise typer.Abort from None


app = typer.Typer(
    cls=LazyGroup,
    name="gantk",
    pretty_exceptions_enable=False,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with [bold]gantk demo[/bold]; [bold]gantk VERB -h[/bold] explains a verb with examples.",
)
for _verb, _help in VERBS.items():
    app.command(_verb, help=_help)(lambda: None)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"gantk {gantk.__version__}")
        raise typer.Exit


@app.callback()
def gantk_(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and stop."),
    ] = False,
) -> None:
    """Generative picture networks from PyTorch to a fast, verified, embeddable engine."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: As on the command line, without the program's name; `sys.argv`'s by default.

    Returns:
        0 where it worked, 1 where it failed, 2 for wrong usage, 3 where a backend that was asked for is
        missing, 130 where it was interrupted, 143 where it was told to end, 129 where its terminal was closed.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if quota() < math.inf:
        # PyTorch and numpy, where nothing tells them how many threads to take, ask no container.
        os.environ.setdefault("OMP_NUM_THREADS", str(core_count()))
    _open_closed_streams()
    codecs.register_error("gantk", _encode_anyhow)
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="gantk")
    with Termination() as termination, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Image size")  # Our own limit, in words, replaces Pillow's.
        return _run(arguments, termination)


def _open_closed_streams() -> None:
    """Let what a caller closed, as ``>&-`` does, lead nowhere; else the next file that is opened takes its number."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def _encode_anyhow(error: UnicodeError) -> tuple[str | bytes, int]:
    """A name that is no text goes out as it came in; what the terminal's encoding lacks is escaped."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def _run(arguments: list[str], termination: Termination) -> int:  # noqa: PLR0911 - one way out for each way to fail
    try:
        status = app(arguments or ["--help"], prog_name="gantk", standalone_mode=False)
        sys.stdout.flush()
        if status == INTERRUPTED:  # A verb that put away what it had, and told it.
            return _interrupted_status(termination)
        return (status or 0) if arguments else UsageError.exit_code
    except GantkError as error:
        return _report(error, arguments)
    except typer.TyperException as error:
        return _report_usage(error, arguments)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        status = _interrupted_status(termination)
        _write_error(GantkError("interrupted"), status, arguments)
        return status
    except BrokenPipeError:
        _drop_output()
        return 1
    except ModuleNotFoundError as error:
        extra = _EXTRAS.get((error.name or "").partition(".")[0])
        if extra is None:
            return _report_bug(error, arguments)
        what = f"`{error.name}` is not installed, and this command wants it"
        return _report(GantkError(what, hint=f"pip install 'gantk[{extra}]'"), arguments)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC and error.filename is None:
            _drop_output()
            what = f"cannot write to standard output: {error.strerror}"
            return _report(GantkError(what, hint="make room and run the command again"), arguments)
        return _report_bug(error, arguments)


def _interrupted_status(termination: Termination) -> int:
    # It listens in the place of `termination` while it is open.
    from gantk.train.interrupt import Interruption

    return 128 + (termination.came or Interruption.ended_by or signal.SIGINT)


def _drop_output() -> None:
    """Nobody takes our output any more, as after `head`, or has room: what is buffered must not complain at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _report_bug(error: Exception, arguments: Sequence[str]) -> int:
    """The traceback, for whoever mends it, and one line for whoever met it."""
    traceback.print_exception(error)
    what = f"{type(error).__name__}: {error}"
    return _report(
        GantkError(what, hint="this is a bug in gantk; please report it with the lines above"), arguments
    )


def _report_usage(error: typer.TyperException, arguments: Sequence[str]) -> int:
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":  # Not public; it carries a group's help.
        typer.echo(message)
        return 2
    what = message[:1].lower() + message[1:].rstrip(".")
    return _report(UsageError(what, hint=f"{_command_of(error, arguments)} -h"), arguments)


def _command_of(error: typer.TyperException, arguments: Sequence[str]) -> str:
    """What was called wrongly, such as ``gantk train dcgan``."""
    context: Any = getattr(error, "ctx", None)
    if context is not None:
        return str(context.command_path)
    return f"gantk {arguments[0]}" if arguments and arguments[0] in VERBS else "gantk"


def _report(error: GantkError, arguments: Sequence[str]) -> int:
    """Print an error, for people to standard error and with `--json` for programs too."""
    _write_error(error, error.exit_code, arguments)
    typer.echo(f"error: {error}", err=True)
    return error.exit_code


def _write_error(error: GantkError, exit_code: int, arguments: Sequence[str]) -> None:
    """Write an error where `--json` says; where that is the very error, once is enough."""
    target = _json_target(arguments)
    if target is None or error.where == str(Path(target)):
        return
    from gantk.cli.output import write_json

    try:
        write_json({**error.to_json(), "exit_code": exit_code}, target)
    except GantkError as second:
        if second.what != error.what:
            typer.echo(f"error: {second}", err=True)
    except OSError:
        _drop_output()


def _json_target(arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == "--json" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--json="):
            return argument.removeprefix("--json=")
    return None


if __name__ == "__main__":
    sys.exit(main())

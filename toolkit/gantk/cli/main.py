# SPDX-License-Identifier: Apache-2.0
"""`gantk`: choose a verb, import its file, and turn what goes wrong into words and an exit status."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import gantk
from gantk.errors import GantkError, UsageError

# A verb, and its one line in `gantk --help`. The verb's file is `gantk/cli/VERB.py`, with a Typer named `app`.
VERBS = {
    "demo": "The whole path in one command: draw pictures, train, export, verify, bench, report.",
    "train": "Train a network on your own pictures.",
    "generate": "Make pictures: a grid, a folder, or a walk through the latent space.",
    "export": "Turn a training run into a verified bundle.",
    "bench": "Compare latency, memory and parity of every way to run a network here.",
    "run": "Run a bundle or an ONNX file on your own arrays.",
    "info": "Say what a bundle or an ONNX file holds.",
    "doctor": "Say what works on this machine, what does not, and what to install.",
}


class LazyGroup(TyperGroup):
    """Lists every verb from a table and imports the one that was chosen."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        module = import_module(f"gantk.cli.{name}")
        return name, typer.main.get_command(module.app), rest


app = typer.Typer(
    cls=LazyGroup,
    name="gantk",
    no_args_is_help=True,
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
        0 where it worked, 1 where it failed, 2 for wrong usage, 3 where a backend that was asked for is missing.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        status = app(arguments, prog_name="gantk", standalone_mode=False)
        return status if isinstance(status, int) else 0
    except GantkError as error:
        return _report(error, arguments)
    except typer._click.exceptions.NoArgsIsHelpError as error:
        typer.echo(error.format_message())
        return 2
    except typer.TyperException as error:
        message = error.format_message()
        return _report(
            UsageError(message[:1].lower() + message[1:].rstrip("."), hint=_help_hint(arguments)), arguments
        )
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # The reader of our output left, as `| head` does; Python would complain at exit.
        return 1


def _help_hint(arguments: Sequence[str]) -> str:
    verb = arguments[0] if arguments and arguments[0] in VERBS else None
    return f"gantk {verb} -h" if verb else "gantk -h"


def _report(error: GantkError, arguments: Sequence[str]) -> int:
    """Print an error, for people to standard error and with `--json` for programs too."""
    target = _json_target(arguments)
    if target is not None:
        from gantk.cli.output import write_json

        try:
            write_json({**error.to_json(), "exit_code": error.exit_code}, target)
        except GantkError as second:
            typer.echo(f"error: {second}", err=True)
    typer.echo(f"error: {error}", err=True)
    return error.exit_code


def _json_target(arguments: Sequence[str]) -> str | None:
    for index, argument in enumerate(arguments):
        if argument == "--json" and index + 1 < len(arguments):
            return arguments[index + 1]
        if argument.startswith("--json="):
            return argument.removeprefix("--json=")
    return None


if __name__ == "__main__":
    sys.exit(main())

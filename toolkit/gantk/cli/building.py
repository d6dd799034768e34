# SPDX-License-Identifier: Apache-2.0
"""The options of `gantk export` that say which engines to build, and how far a build is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.bundle import ENGINE_BACKENDS, PRECISIONS, Bundle
from gantk.cli.output import progress
from gantk.errors import UsageError
from gantk.files import resolved

if TYPE_CHECKING:
    from gantk.export.engines.pipeline import EngineRequest

ONNX = "onnx"
_ENGINES = "TensorRT engines"
_WORKSPACE_LIMIT_MIB = 2**24  # More than any GPU has; the libraries count bytes in 64 bits.

To = Annotated[
    str,
    typer.Option(
        "--to",
        metavar="WHAT,...",
        help="onnx, tensorrt, tensorrt-rtx. Without onnx a bundle keeps its files and gains engines.",
        rich_help_panel=_ENGINES,
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="SM,...",
        help="GPU architectures to build for, such as sm_89,sm_120; of tensorrt-rtx, which needs no GPU for it.",
        show_default="all that the network can be built for; with refit the GPU at hand",
        rich_help_panel=_ENGINES,
    ),
]
Tf32 = Annotated[
    bool,
    typer.Option("--tf32", help="Let fp32 engines round to 10 bits of mantissa.", rich_help_panel=_ENGINES),
]


def _shapes(option: str, what: str) -> Any:
    return Annotated[
        list[str] | None,
        typer.Option(
            option,
            metavar="NAME=1x3x256x256",
            help=f"{what} shape of an input. Given k times for an input: k profiles.",
            show_default=False,
            rich_help_panel=_ENGINES,
        ),
    ]


Min = _shapes("--min", "The smallest")
Opt = _shapes("--opt", "The usual, tuned-for")
Max = _shapes("--max", "The largest")
Workspace = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=_WORKSPACE_LIMIT_MIB,
        metavar="MIB",
        help="The most scratch memory of a layer.",
        show_default="what the GPU has",
        rich_help_panel=_ENGINES,
    ),
]
EngineOptions = Annotated[
    str | None,
    typer.Option(
        "--engine-options",
        metavar="O,...",
        help="version-compatible, hardware-compatible (tensorrt); refit; refit,strip (both, on a machine with a GPU).",
        show_default="none",
        rich_help_panel=_ENGINES,
    ),
]
NoPlugins = Annotated[
    bool,
    typer.Option(
        "--no-plugins",
        help="Leave gantk's own kernels for Gram matrices and total variation out of tensorrt's engines.",
        rich_help_panel=_ENGINES,
    ),
]
Reproducible = Annotated[
    bool,
    typer.Option(
        "--reproducible",
        help="Build the same bytes every time, with tensorrt-rtx; wants root, or ulimit -r 1.",
        rich_help_panel=_ENGINES,
    ),
]


def listed(text: str | None) -> tuple[str, ...]:
    """The names in a list with commas."""
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


def parse_precisions(text: str | None) -> tuple[str, ...]:
    """The precisions given with ``--precision``, each once; none where it was not given.

    Raises:
        UsageError: It names none, or one that there is not.
    """
    return () if text is None else _known("--precision", text, PRECISIONS)


def _given_names(option: str, text: str | None) -> tuple[str, ...]:
    """The names that an option was given; none where it was not given, lest an empty variable stand for all."""
    names = listed(text)
    if text is not None and not names:
        raise UsageError(f"{option} names nothing", where=option, hint="leave it out, or name some")
    return names


def _known(option: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The names that an option was given, each once, of those that are known."""
    names = listed(text)
    unknown = [name for name in names if name not in known]
    if unknown or not names:
        got = ", ".join(map(repr, unknown)) or "nothing"
        raise UsageError(f"{option} names {got}; known are {', '.join(known)}", where=option)
    return tuple(dict.fromkeys(names))


def make_request(to: str, precision: str | None, given: dict[str, Any]) -> EngineRequest | None:
    """What engines are wanted, or `None` where none are.

    Args:
        to: As given with ``--to``.
        precision: As given with ``--precision``.
        given: What was said with the other options, by their names.

    Raises:
        UsageError: An unknown product, precision or option, or one that is for engines where none are wanted.
        BackendMissingError: A product is not installed, or cannot build here.
    """
    products = tuple(name for name in _known("--to", to, (ONNX, *ENGINE_BACKENDS)) if name != ONNX)
    if not products:
        stray = next((option for option, value in given.items() if value or value == ""), None)
        if stray is not None:
            raise UsageError(f"{stray} is for engines", where=stray, hint="--to onnx,tensorrt-rtx")
        return None
    from gantk.export.engines.build import BuildOptions
    from gantk.export.engines.pipeline import EngineRequest

    workspace = given["--workspace"]
    request = EngineRequest(
        products,
        parse_precisions(precision),
        BuildOptions(
            targets=_given_names("--target", given["--target"]),
            tf32=given["--tf32"],
            workspace_bytes=None if workspace is None else workspace * 2**20,
            options=_given_names("--engine-options", given["--engine-options"]),
            plugins=not given["--no-plugins"],
            reproducible=given["--reproducible"],
        ),
        smallest=tuple(given["--min"] or ()),
        usual=tuple(given["--opt"] or ()),
        largest=tuple(given["--max"] or ()),
    )
    request.check()
    return request


def build_into(source: Path, output: Path, request: EngineRequest) -> Bundle:
    """Build engines of a bundle's networks into it, without PyTorch.

    Args:
        source: The bundle.
        output: As given with ``--output``, which can only be the bundle itself.
        request: What to build.
    """
    from gantk.cli.output import prose

    if resolved(output) != resolved(source):
        again = Bundle.read(source).manifest.checkpoint is not None
        raise UsageError(
            f"engines are added to `{source}` itself, not to `{output}`",
            where="--output",
            hint=f"leave -o out, or export again with --to onnx,{','.join(request.products)}"
            if again
            else "leave -o out, or add them to a copy of the folder",
        )
    from gantk.export.engines.pipeline import add_engines

    with BuildBar() as bar:
        return add_engines(source, request, prose().print, bar.show)


class BuildBar:
    """A bar on standard error with the builder's own phases."""

    def __init__(self) -> None:
        self._bar = progress()
        self._tasks: dict[str, Any] = {}

    def __enter__(self) -> BuildBar:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def show(self, phase: str, done: int, steps: int) -> None:
        """Say that `done` of `steps` steps of a phase are done; a finished phase goes away."""
        if phase not in self._tasks:
            self._tasks[phase] = self._bar.add_task(phase, total=steps, note="")
        self._bar.update(self._tasks[phase], completed=done, total=steps)
        if done == steps:
            self._bar.remove_task(self._tasks.pop(phase))

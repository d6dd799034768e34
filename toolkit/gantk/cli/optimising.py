# SPDX-License-Identifier: Apache-2.0
"""`gantk stylize --model STEP.gantk`: the optimisation over an exported step, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import typer

from gantk.cli.output import prose, tell_of_more, write_json
from gantk.cli.stylizing import PaintingBar
from gantk.errors import UsageError
from gantk.options import option_of
from gantk.stylize.optimise import Listener, optimise
from gantk.stylize.settings import Settings
from gantk.train.interrupt import Interruption

# Of the options of `gantk stylize`, those that have another name here.
_RENAMED = {"style_share": "shares"}
_HOW = ("backend", "precision", "threads", "force")
_WHAT = ("model", "content", "style", "output", "json", "preset")


class StepBar(PaintingBar, Listener):
    """A bar that also hears of Ctrl-C.

    Args:
        interruption: What ends the work after its step.
    """

    def __init__(self, interruption: Interruption) -> None:
        super().__init__()
        self._interruption = interruption

    def ends(self) -> bool:
        return self._interruption.requested


def optimise_command(model: Path, given: Mapping[str, Any], preset: Mapping[str, Any]) -> int:
    """Optimise one picture.

    Args:
        model: The bundle of a step.
        given: What the user said, by the names of the options of `gantk stylize`.
        preset: What a preset says instead of the defaults.

    Returns:
        The exit status.

    Raises:
        UsageError: There is no style, more than one picture, or an option that the bundle decides.
    """
    contents, styles = given["content"], given.get("style") or ()
    if len(contents) > 1:
        raise UsageError("one picture at a time; several want a network and no step", where="CONTENT")
    if not styles:
        raise UsageError(
            "--style is missing: a picture in the style; the model is a step of an optimisation towards one",
            hint=f"gantk stylize {quote(str(contents[0]))} --style PICTURE --model {quote(str(model))}",
        )
    options = {
        _RENAMED.get(name, name): value for name, value in given.items() if name not in (*_HOW, *_WHAT)
    }
    foreign = sorted(options.keys() - Settings.__dataclass_fields__.keys())
    if foreign:
        raise UsageError(
            f"{', '.join(map(option_of, foreign))} cannot go with an exported step",
            hint="what it compares is chosen by gantk export --gatys; without --model all options are there",
        )
    chosen = {
        name: value for name, value in preset.items() if name in Settings.__dataclass_fields__
    } | options
    if "shares" in chosen:
        chosen["shares"] = tuple(chosen["shares"])
    settings = Settings(**chosen)
    output = given.get("output") or Path(f"{contents[0].stem}-stylized.png")
    how = {name: given[name] for name in _HOW if name in given}
    with Interruption() as interruption, closing(StepBar(interruption)) as listener:
        result = optimise(contents[0], styles, model, output, settings, listener=listener, **how)
    width, height = result.size
    prose().print(
        f"{'interrupted: ' if result.interrupted else ''}wrote {result.picture} ({width} x {height}) after "
        f"{result.steps} steps in {result.seconds:.0f} s, by {result.backend} in {result.precision}",
    )
    tell_of_more(contents[0])
    if given.get("json") is not None:
        facts = {**asdict(result), "size": [width, height], "settings": asdict(settings), "model": str(model)}
        write_json(facts, given["json"])
    else:
        typer.echo(result.picture)
    return 130 if result.interrupted else 0

# SPDX-License-Identifier: Apache-2.0
"""`gantk stylize` without `--model`: the optimisation by PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gantk.cli.bar import Bar
from gantk.cli.output import prose, tell_of_more, write_json
from gantk.errors import GantkError
from gantk.gatys.config import GatysConfig, find_preset, parse_layers
from gantk.gatys.reporter import Reporter
from gantk.options import option_of
from gantk.stylize.schedule import Losses


class PaintingBar(Bar, Reporter):
    """A bar with the size and the losses."""

    def fetching(self, done: int, total: int) -> None:
        self.show("fetching VGG-19 (MB)", done // 10**6, total // 10**6)

    def step(self, done: int, total: int, longer: int, losses: Losses) -> None:
        parts = "  ".join(f"{name} {value:.3g}" for name, value in asdict(losses).items() if value)
        self.show("painting", done, total, f"{longer} px  {parts}")


def configure(options: Mapping[str, Any], given: Mapping[str, Any]) -> GatysConfig:
    """The configuration that the options and the preset make.

    Args:
        options: Of the command, by name.
        given: Those that the user gave, which win over the preset.

    Raises:
        GantkError: PyTorch is not installed.
        UsageError: A value is not allowed.
    """
    if find_spec("torch") is None:
        raise GantkError(
            "stylising by optimisation wants torch, which is not installed",
            hint="pip install 'gantk[train]'; a bundle needs no torch: gantk stylize CONTENT --model X.gantk",
        )
    preset = find_preset(options["preset"])
    values = {**options, **preset, **{name: value for name, value in given.items() if name in preset}}
    for name in ("content_layers", "style_layers"):
        if values[name] is not None:
            values[name] = parse_layers(values[name], option_of(name))
    values |= {
        "content": str(values["content"][0]),
        "styles": tuple(map(str, values["style"])),
        "shares": tuple(values["style_share"] or ()),
        "masks": tuple(map(str, values["mask"] or ())),
        "style_masks": tuple(map(str, values["style_mask"] or ())),
        "vgg": None if values["vgg"] is None else str(values["vgg"]),
    }
    return GatysConfig(
        **{field.name: values[field.name] for field in fields(GatysConfig) if field.name in values}
    )


def optimise_with_torch(
    config: GatysConfig, output: Path, curves: Path | None, force: bool, json: str | None
) -> int:
    """Optimise one picture; the exit status."""
    from gantk.gatys.stylize import stylize

    curves = curves or output.with_name(f"{output.stem}.losses.png")
    reporter = PaintingBar()
    try:
        result = stylize(config, output, curves=curves, force=force, reporter=reporter)
    finally:
        reporter.close()
    width, height = result.size
    began = "interrupted: " if result.interrupted else ""
    prose().print(
        f"{began}wrote {result.picture} ({width} x {height}) and {curves} after {result.steps} steps "
        f"in {result.seconds:.0f} s, in {result.precision}",
    )
    tell_of_more(Path(config.content))
    if json is not None:
        facts = {**asdict(result), "size": [width, height], "curves": str(curves)}
        write_json({**facts, "config": config.to_json()}, json)
    return 130 if result.interrupted else 0

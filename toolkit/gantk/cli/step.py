# SPDX-License-Identifier: Apache-2.0
"""The options of `gantk export --gatys`, and what it does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gantk.cli.building import listed
from gantk.cli.exported import manifest_of, tell
from gantk.cli.output import prose, spinner

if TYPE_CHECKING:
    from gantk.export.engines.pipeline import EngineRequest

_STEP = "The step of an optimisation"

Gatys = Annotated[
    bool,
    typer.Option(
        "--gatys",
        help="Export the step of gantk stylize's optimisation instead of a network: its gradient, its update "
        "by Adam, and what it compares with, for pictures of any size.",
        rich_help_panel=_STEP,
    ),
]
Vgg = Annotated[
    Path | None,
    typer.Option(
        help="VGG-19's weights, .pth or .safetensors with torchvision's names; may end early.",
        show_default="fetched once",
        rich_help_panel=_STEP,
    ),
]
StyleLayers = Annotated[
    str | None,
    typer.Option(
        metavar="L,...",
        help="VGG-19's layers that tell style.",
        show_default="relu1_1 to relu5_1, or what --vgg has",
        rich_help_panel=_STEP,
    ),
]
ContentLayer = Annotated[
    str | None,
    typer.Option(
        metavar="L",
        help="The layer that tells content.",
        show_default="relu4_2, or what --vgg has",
        rich_help_panel=_STEP,
    ),
]
Pooling = Annotated[
    str | None,
    typer.Option(
        metavar="max|average",
        help="Average is smoother, and faster.",
        show_default="max",
        rich_help_panel=_STEP,
    ),
]
Variation = Annotated[
    str | None,
    typer.Option(
        metavar="l1|l2|isotropic", help="Total variation.", show_default="l1", rich_help_panel=_STEP
    ),
]


def export_step_into(
    step: Mapping[str, Any],
    output: Path,
    precisions: Sequence[str],
    force: bool,
    psnr_min: float | None,
    request: EngineRequest | None,
    json: str | None,
) -> None:
    """`gantk export --gatys`.

    Args:
        step: The values of the options above but the first, by their names.
        output: The bundle to write.
        precisions: To export.
        force: Replace an existing bundle.
        psnr_min: As given with ``--psnr-min``.
        request: The engines to build.
        json: As given with ``--json``.
    """
    console, before = prose(), manifest_of(output)
    with spinner(console, "loading PyTorch") as show:
        from gantk.export.gatys.pipeline import export_step

        bundle = export_step(
            step["--vgg"],
            output,
            style_layers=listed(step["--style-layers"]) if step["--style-layers"] else None,
            content_layer=step["--content-layer"],
            pooling=step["--pooling"] or "max",
            variation=step["--variation"] or "l1",
            precisions=precisions,
            force=force,
            psnr_min=psnr_min,
            engines=request,
            report=show,
            building=lambda phase, done, steps: show(f"{phase}: {done} of {steps}"),
            progress=lambda done, total: show(f"fetching VGG-19: {done // 10**6} of {total // 10**6} MB"),
        )
    tell(console, bundle, json, before)
    console.print(f"next: gantk stylize CONTENT --style PICTURE --model {quote(str(bundle.root))}")

# SPDX-License-Identifier: Apache-2.0
"""`gantk train`: a network from your own pictures; one file a kind of training."""

from __future__ import annotations

import typer

from gantk.cli.train import adain, dcgan, style

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def train() -> None:
    """Train a network on your own pictures."""


app.command(epilog=dcgan.EPILOG)(dcgan.dcgan)
app.command(epilog=style.EPILOG)(style.style)
app.command(epilog=adain.EPILOG)(adain.adain)

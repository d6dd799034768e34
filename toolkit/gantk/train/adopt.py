# SPDX-License-Identifier: Apache-2.0
"""A checkpoint that another program trained becomes a run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gantk import checkpoint
from gantk.bundle import as_printable
from gantk.files import read_bytes, write_bytes
from gantk.models import fast_neural_style
from gantk.models.weights import read_state_dict
from gantk.train import run_folder

KIND = "import"


@dataclass(frozen=True)
class Adopted:
    """What became a run.

    Args:
        run: The run folder.
        checkpoint: The file in it.
        family: One of `gantk.models.FAMILIES`.
        config: As `gantk.models.build` takes it.
        parameters: The number of weights.
    """

    run: Path
    checkpoint: Path
    family: str
    config: dict[str, Any]
    parameters: int


def adopt_fast_neural_style(
    file: Path, run: Path, *, name: str | None = None, force: bool = False
) -> Adopted:
    """Make a run of a checkpoint of the public PyTorch example `fast_neural_style`.

    Args:
        file: safetensors, or .pth as the example saves it; running statistics of old versions are dropped.
        run: The run folder.
        name: The style's; the file's by default.
        force: Whether a run that is in `run` already may be replaced.

    Raises:
        UsageError: The name is empty.
        GantkError: The file is cut, of another architecture, or has values that are not finite; or the folder
            is taken or cannot be written.
    """
    tensors = read_state_dict(file)
    network = fast_neural_style.convert(tensors, as_printable(file.stem) if name is None else name, file)
    run_folder.check_free(run, force=force)
    config = network.config.to_json()
    origin = {"file": file.name, "sha256": hashlib.sha256(read_bytes(file)).hexdigest()}
    with run_folder.locked(run):
        run_folder.start(run, KIND, {"network": network.family, **config}, {"imported": origin})
        path = checkpoint.path_of(run, 0)
        write_bytes(path, checkpoint.generator_bytes(network))
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Adopted(run, path, network.family, config, parameters)

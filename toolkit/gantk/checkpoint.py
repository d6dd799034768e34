# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: one safetensors file with every tensor, and a JSON state in its metadata. Never a pickle."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn

from gantk import models
from gantk.bundle import Bundle, as_printable, is_bundle
from gantk.errors import GantkError
from gantk.files import read_bytes, write_bytes
from gantk.models.weights import differences, some

SCHEMA_VERSION = 1
FOLDER = "checkpoints"
RUN_FILE = "run.json"

_ENTRY = "gantk"  # The hash, a space, and the state: one entry, for the order of several is not fixed.
_NO_HASH = "0" * 64
_NAME = re.compile(r"step-(\d{7,})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Args:
        tensors: By name; ``ema.*`` are the weights of the generator that samples and exports are made with.
        state: JSON: at least ``schema``, ``family``, ``config`` and ``step``.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``name.``, without that prefix."""
        prefix = f"{name}."
        return {
            key.removeprefix(prefix): tensor for key, tensor in self.tensors.items() if key.startswith(prefix)
        }


@dataclass(frozen=True)
class Generator:
    """A trained generator, ready to use.

    Args:
        module: Maps `inputs` to `outputs` of its configuration; averaged (EMA) weights, float32, on the CPU, in
            evaluation mode, without gradients.
        family: One of `gantk.models.FAMILIES`.
        name: The run's name.
        config: As `gantk.models.build` takes it.
        step: The step of training that the weights are from.
    """

    module: nn.Module
    family: str
    name: str
    config: dict[str, Any]
    step: int


def path_of(run: Path, step: int) -> Path:
    """Where the checkpoint of a step is kept in a run folder."""
    return run / FOLDER / f"step-{step:07d}.safetensors"


def list_paths(run: Path) -> list[Path]:
    """The checkpoints of a run folder, newest first, whole or not."""
    found = [
        (int(match[1]), path)
        for path in (run / FOLDER).glob("step-*")
        if (match := _NAME.fullmatch(path.name))
    ]
    return [path for _, path in sorted(found, reverse=True)]


def write(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically.

    Raises:
        GantkError: It cannot be written; a checkpoint that was there is whole still.
    """
    write_bytes(path, _serialise(tensors, state))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint and check that it is the file that was written.

    Raises:
        GantkError: It does not exist, is cut, was changed, or is no checkpoint of gantk.
    """
    return _parse(read_bytes(path), path)


def read_newest(run: Path) -> tuple[Checkpoint, Path, list[GantkError]]:
    """Read the newest whole checkpoint of a run folder.

    Returns:
        The checkpoint, its path, and why each newer one could not be read.

    Raises:
        GantkError: The folder has no checkpoint, or none that is whole.
    """
    problems: list[GantkError] = []
    for path in list_paths(run):
        try:
            return read(path), path, problems
        except GantkError as error:
            problems.append(error)
    if problems:
        raise GantkError(
            f"none of the {len(problems)} checkpoints in `{run}` is whole: {problems[0].what}", where=str(run)
        )
    raise GantkError(
        f"`{run}` has no checkpoint",
        where=str(run / FOLDER),
        hint=f"gantk train KIND --out {quote(str(run))} with --resume, or with --data and --force; gantk train -h",
    )


def load_generator(path: str | os.PathLike[str]) -> Generator:
    """Load a trained generator.

    Args:
        path: A run folder (its newest whole checkpoint), a checkpoint file, or a bundle folder.

    Raises:
        GantkError: There is nothing there, it is damaged, of another architecture, or has weights that are
            not finite.
    """
    path = Path(path)
    if is_bundle(path):
        return _from_bundle(path)
    if path.is_dir():
        if not (path / RUN_FILE).is_file() and not list_paths(path):
            raise GantkError(
                f"`{path}` is neither a run nor a bundle: it has no {RUN_FILE}, {FOLDER}/ or manifest.json",
                where=str(path),
                hint=f"gantk train dcgan --data DIR --out {quote(str(path))} makes one; so do the others in "
                "gantk train -h",
            )
        checkpoint, path, _ = read_newest(path)
    else:
        checkpoint = read(path)
    run = path.absolute().parent.parent if path.absolute().parent.name == FOLDER else path.with_suffix("")
    state = checkpoint.state
    weights = checkpoint.part("ema")
    module = _build(state["family"], state["config"], weights, path)
    name = as_printable(run.name)  # As bundles hold it.
    return Generator(module, state["family"], name, state["config"], state["step"])


def generator_bytes(module: nn.Module) -> bytes:
    """A generator's weights alone, as the bytes of a checkpoint file that `load_generator` reads."""
    config: Any = module.config
    state = {"schema": SCHEMA_VERSION, "family": module.family, "config": config.to_json(), "step": 0}
    weights = {f"ema.{name}": _as_stored(tensor) for name, tensor in module.state_dict().items()}
    return _serialise(weights, state)


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load weights whose names and shapes must be those of `module`.

    Raises:
        GantkError: They are those of another architecture; the message says which differ.
    """
    different = differences(module.state_dict(), weights)
    if different is not None:
        raise GantkError(
            f"the checkpoint is of another architecture than its configuration says: it {different}",
            where=str(path),
        )
    module.load_state_dict(dict(weights))


def _from_bundle(path: Path) -> Generator:
    bundle = Bundle.read(path)
    manifest = bundle.manifest
    if manifest.checkpoint is None:
        raise GantkError(
            f"`{path}` holds no checkpoint; its network cannot be built again",
            where=str(path),
            hint=f"gantk export {quote(str(path))} --to tensorrt-rtx builds engines of the files that it has",
        )
    file = path / manifest.checkpoint.path
    checkpoint = _parse(bundle.read_file(manifest.checkpoint), file)
    module = _build(manifest.family, manifest.config, checkpoint.part("ema"), file)
    return Generator(module, manifest.family, manifest.name, manifest.config, checkpoint.state["step"])


def _build(family: str, config: Mapping[str, Any], weights: Mapping[str, Tensor], path: Path) -> nn.Module:
    try:
        module = models.build(family, config)
    except GantkError as error:
        raise GantkError(f"the network cannot be built: {error.what}", where=str(path)) from error
    load_weights(module, weights, path)
    bad = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise GantkError(
            f"{some(bad)} has values that are NaN or infinite: the training diverged",
            where=str(path),
            hint="load an earlier checkpoint of the run, or train again with lower learning rates",
        )
    return module.eval().requires_grad_(False)


def _as_stored(tensor: Tensor) -> Tensor:
    """On the CPU, contiguous, and float32 where it is a float."""
    tensor = tensor.detach().to("cpu")
    return (tensor.float() if tensor.is_floating_point() else tensor).contiguous()


def _serialise(tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> bytes:
    """The bytes of a file that carries its own hash: it was made with zeros where the hash stands."""
    metadata = {_ENTRY: f"{_NO_HASH} {json.dumps(state, allow_nan=False)}"}
    data = save_tensors({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    digest = hashlib.sha256(data).hexdigest()
    return data.replace(f'"{_NO_HASH} '.encode(), f'"{digest} '.encode(), 1)


def _parse(data: bytes, path: Path) -> Checkpoint:
    try:
        header_bytes = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + header_bytes])["__metadata__"]
        digest, _, text = metadata[_ENTRY].partition(" ")
        state = json.loads(text)
        tensors = load_tensors(data)
    except (KeyError, UnicodeDecodeError) as error:  # No such entry, or no header at all, as in a .pth file.
        raise GantkError(
            f"`{path.name}` is no checkpoint of gantk: it holds nothing that gantk wrote",
            where=str(path),
            hint="gantk import takes style networks that another program trained: gantk import -h",
        ) from error
    except (
        ValueError,
        TypeError,
        AttributeError,
        RecursionError,
        MemoryError,
        SafetensorError,
    ) as error:
        raise GantkError(
            f"`{path.name}` is not a whole checkpoint of gantk: {str(error) or type(error).__name__}",
            where=str(path),
        ) from error
    at = data.find(f'"{digest} '.encode()) + 1
    actual = hashlib.sha256(data[:at])
    actual.update(_NO_HASH.encode())
    actual.update(memoryview(data)[at + 64 :])
    if actual.hexdigest() != digest:
        raise GantkError(
            f"`{path.name}` was changed after it was written: its hash is another one", where=str(path)
        )
    return Checkpoint(tensors, _check_state(state, path))


def _check_state(state: Any, path: Path) -> dict[str, Any]:
    kinds = {"schema": int, "family": str, "config": dict, "step": int}
    if not isinstance(state, dict) or not all(
        isinstance(state.get(key), kind) for key, kind in kinds.items()
    ):
        raise GantkError(f"the state of `{path.name}` lacks one of {', '.join(kinds)}", where=str(path))
    check_schema(path, state["schema"], SCHEMA_VERSION)
    return state


def check_schema(path: Path, found: int, known: int) -> None:
    """Refuse a file of a run that another version of gantk wrote in another way.

    Raises:
        GantkError: Its schema is not the one that is known.
    """
    if found != known:
        raise GantkError(
            f"`{path.name}` has schema {found}; this gantk reads schema {known}",
            where=str(path),
            hint="pip install -U gantk" if found > known else "begin a new run",
        )

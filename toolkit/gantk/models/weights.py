# SPDX-License-Identifier: Apache-2.0
"""Weights by name: read from files that other programs wrote, checked, compared. Nothing is unpickled."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gantk.errors import GantkError
from gantk.files import named_errors, regular

_NESTED = ("state_dict", "model_state_dict", "model")  # Where trainings put the weights among other things.


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a state dict that another program saved.

    Args:
        path: A safetensors file, or what `torch.save` wrote: a state dict, or a dict that holds one as
            ``state_dict``, ``model_state_dict`` or ``model``. A prefix ``module.`` of all names, which
            parallel training leaves, is dropped.

    Returns:
        Tensors on the CPU by name; large files are mapped, not read.

    Raises:
        GantkError: The file is missing, cut, of another kind, or wants code run to be read.
    """
    with named_errors(path, "read"), open(path, "rb", opener=regular) as stream:
        head = stream.read(9)
    zipped = zipfile.is_zipfile(path)
    try:
        if head[8:9] == b"{":
            content: Any = load_file(path)
        elif head.startswith(b"PK") and not zipped:
            raise ValueError("it is cut")
        else:
            content = torch.load(path, "cpu", weights_only=True, mmap=zipped or None)
    except pickle.UnpicklingError as error:
        raise GantkError(
            f"`{path.name}` holds more than weights, or is no file of weights; gantk runs no code from files",
            where=str(path),
            hint="save the state dict alone: torch.save(model.state_dict(), FILE)",
        ) from error
    except (SafetensorError, RuntimeError, OSError, EOFError, ValueError, TypeError, KeyError) as error:
        reason = str(error).partition("\n")[0][:200] or type(error).__name__
        raise GantkError(
            f"`{path.name}` is not a whole file of weights: {reason}",
            where=str(path),
            hint="safetensors, and .pth as torch.save writes it, can be read",
        ) from error
    return _tensors(content, path)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Refuse weights that are not numbers.

    Raises:
        GantkError: A tensor holds NaN or infinity; the message names it.
    """
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise GantkError(
            f"{some(bad)} of `{path.name}` has values that are NaN or infinite",
            where=str(path),
            hint="take another copy of the file, or an earlier checkpoint",
        )


def differences(wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str | None:
    """In what names and shapes `found` is not what is `wanted`, as the end of a sentence on it."""
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted]
    shapes = [
        f"{name} is {list(found[name].shape)}, not {list(tensor.shape)}"
        for name, tensor in wanted.items()
        if name in found and found[name].shape != tensor.shape
    ]
    parts = [f"lacks {some(missing)}"] * bool(missing) + [f"has {some(unknown)} too"] * bool(unknown)
    return "; ".join([*parts, *[some(shapes)] * bool(shapes)]) or None


def some(names: list[str]) -> str:
    """The first three of some names, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _tensors(content: Any, path: Path) -> dict[str, Tensor]:
    if isinstance(content, Mapping):
        content = next((content[key] for key in _NESTED if isinstance(content.get(key), Mapping)), content)
        tensors = {name: value for name, value in content.items() if isinstance(value, Tensor)}
        if tensors and all(isinstance(name, str) for name in tensors):
            shared = "module." if all(name.startswith("module.") for name in tensors) else ""
            return {name.removeprefix(shared): tensor.detach() for name, tensor in tensors.items()}
    raise GantkError(f"`{path.name}` holds {type(content).__name__}, not weights by name", where=str(path))

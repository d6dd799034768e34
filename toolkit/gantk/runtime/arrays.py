# SPDX-License-Identifier: Apache-2.0
"""Inputs from files or at random, and outputs to files."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gantk.errors import GantkError, UsageError
from gantk.files import read_bytes, write_bytes
from gantk.runtime.following import Follows
from gantk.runtime.pictures import FORMATS, load
from gantk.runtime.runner import Array, numpy_dtype
from gantk.runtime.scenes import draw_scenes
from gantk.tensors import SIZE_LIMIT, TensorSpec

PICTURE_SIDE = 512
"""Height and width of a random picture whose size is free and was not said."""


def load_input(spec: TensorSpec, path: str | Path) -> Array:
    """Read one input: an ``.npy`` file (never a pickle), or a picture for a uint8 NHWC input.

    Raises:
        GantkError: It is missing, damaged, holds objects, or is a picture and the input is not one.
    """
    path = Path(path)
    if path.suffix.lower() in FORMATS:
        if (spec.dtype, len(spec.shape)) != ("uint8", 4) or spec.layout not in (None, "NHWC"):
            raise GantkError(f"`{path}` is a picture; input {spec} wants an .npy file", where=str(path))
        return load(path)
    data = read_bytes(path)
    try:
        return np.asarray(np.lib.format.read_array(io.BytesIO(data), allow_pickle=False))
    except Exception as error:  # A damaged header fails in many ways.
        reason = "it is a pickle, which gantk does not open" if "pickle" in str(error) else str(error)
        raise GantkError(
            f"`{path}` is not an .npy file: {reason}",
            where=str(path),
            hint="numpy.save(FILE, array) writes one",
        ) from error


def random_feeds(
    inputs: Sequence[TensorSpec],
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
    following: Mapping[str, Follows] | None = None,
) -> dict[str, Array]:
    """A `random_array` for each input; symbols stand for `sizes`, or where it names none for `default_sizes`."""
    sizes = default_sizes(inputs, sizes or {}, following)
    return {spec.name: random_array(spec, spec.concrete(sizes), seed) for spec in inputs}


def default_sizes(
    inputs: Sequence[TensorSpec], sizes: Mapping[str, int], following: Mapping[str, Follows] | None = None
) -> dict[str, int]:
    """`sizes`; where it does not name them `PICTURE_SIDE` for the height and width of pictures, and what follows."""
    free = [spec.shape[axis] for spec in inputs for axis in spec.picture_axes or ()]
    known = {**{size: PICTURE_SIDE for size in free if isinstance(size, str)}, **sizes}
    made = {
        name: follow.of(known[follow.source])
        for name, follow in (following or {}).items()
        if follow.source in known
    }
    return {**made, **known}


def random_array(spec: TensorSpec, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Values that suit an input, the same for the same seed.

    Pictures are scenes (see `gantk.runtime.scenes`). Weights, which are vectors with a range from 0 to 1, have
    the sum 1. Other floats are standard normal, or uniform over the range where one is declared; other integers
    are uniform over the range, else 0 to 255 for uint8 and 0 or 1 for the others.
    """
    # By name, so that an input's values do not depend on the others.
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    dtype = numpy_dtype(spec)
    is_float = spec.dtype.startswith(("float", "bfloat"))
    if spec.picture_axes is not None and spec.range is not None:
        return _pictures(rng, spec, shape, whole=not is_float).astype(dtype)
    if is_float and spec.layout == "NC" and spec.range == (0.0, 1.0):
        return rng.dirichlet(np.full(shape[1], 0.5), shape[0]).astype(dtype)
    if is_float:
        values = rng.uniform(*spec.range, shape) if spec.range else rng.standard_normal(shape)
        return values.astype(dtype)
    low, high = spec.range or ((0, 255) if spec.dtype == "uint8" else (0, 1))
    return rng.integers(int(low), int(high) + 1, shape).astype(dtype)


def _pictures(rng: np.random.Generator, spec: TensorSpec, shape: tuple[int, ...], *, whole: bool) -> Array:
    """Scenes in the range and layout of `spec`; in whole numbers where it has these."""
    assert spec.range is not None and spec.layout is not None
    sizes = dict(zip(spec.layout, shape, strict=True))
    scenes = draw_scenes(rng, sizes["N"], sizes["H"], sizes["W"], sizes["C"])
    low, high = spec.range
    values = low + (high - low) * (scenes if spec.layout == "NHWC" else scenes.transpose(0, 3, 1, 2))
    return np.rint(values) if whole else values


def parse_shape(
    text: str, inputs: Sequence[TensorSpec], option: str = "--shape"
) -> tuple[str, tuple[int, ...]]:
    """Read ``NAME=1x3x512x512``, as given with `option`, and check it against the input of that name.

    Raises:
        UsageError: It does not read so, or does not fit the input.
    """
    name, _, shape = text.rpartition("=")
    spec = next((spec for spec in inputs if spec.name == name), None)
    if spec is None or not re.fullmatch(r"[1-9]\d{0,9}(x[1-9]\d{0,9})*", shape):
        known = ", ".join(map(str, inputs))
        raise UsageError(f"{text!r} is not NAME=SIZExSIZE...; the inputs are {known}", where=option)
    sizes = tuple(int(size) for size in shape.split("x"))
    fits = len(sizes) == len(spec.shape) and all(
        isinstance(wanted, str) or size == wanted for size, wanted in zip(sizes, spec.shape, strict=True)
    )
    if not fits or max(sizes) > SIZE_LIMIT:
        raise UsageError(f"{text!r} does not fit {spec}", where=option)
    return name, sizes


def example_shape(spec: TensorSpec, sizes: Mapping[str, int] | None = None) -> str:
    """A shape as `parse_shape` reads it, for hints: `sizes`, else 1 for the batch and `PICTURE_SIDE` for the rest."""
    sides = {size: PICTURE_SIDE for size in spec.shape[1:] if isinstance(size, str)}
    return f"{spec.name}={'x'.join(map(str, spec.concrete({**sides, **(sizes or {})})))}"


def bound_sizes(shapes: Mapping[str, tuple[int, ...]], inputs: Sequence[TensorSpec]) -> dict[str, int]:
    """What each symbol stands for, given some inputs' shapes.

    Raises:
        UsageError: Two of them disagree.
    """
    sizes: dict[str, int] = {}
    for spec in inputs:
        for symbol, size in zip(spec.shape, shapes.get(spec.name, ()), strict=False):
            if isinstance(symbol, str) and sizes.setdefault(symbol, size) != size:
                raise UsageError(f"{symbol} is {sizes[symbol]} and {size} at once", where="--shape")
    return sizes


def output_files(folder: str | Path, names: Sequence[str]) -> list[Path]:
    """The file of each output: ``NAME.npy``, with what of the name a file may be called."""
    files: list[Path] = []
    for name in names:
        path = Path(folder) / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', name)[:100].lstrip('.') or 'output'}.npy"
        files.append(path.with_name(f"{path.stem}-{len(files)}.npy") if path in files else path)
    return files


def save_outputs(folder: str | Path, outputs: Mapping[str, Array]) -> list[Path]:
    """Write each output to its file (see `output_files`), which appears whole or not at all."""
    files = output_files(folder, list(outputs))
    for path, array in zip(files, outputs.values(), strict=True):
        stream = io.BytesIO()
        np.save(stream, array, allow_pickle=False)
        write_bytes(path, stream.getvalue())
    return files


def summary(name: str, array: Array) -> dict[str, Any]:
    """Shape, dtype, smallest, largest and mean value of an array; `None` where it has no finite one."""
    values = array.astype(np.float64)
    finite = values[np.isfinite(values)]
    some = finite.size > 0
    return {
        "name": name,
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "min": float(finite.min()) if some else None,
        "max": float(finite.max()) if some else None,
        "mean": float(finite.mean()) if some else None,
        "not_finite": int(values.size - finite.size),
    }

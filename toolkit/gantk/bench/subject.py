# SPDX-License-Identifier: Apache-2.0
"""What is benchmarked: the files of a bundle or a lone ONNX file, and inputs for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from gantk.bundle import Bundle, Variant, place_of
from gantk.errors import UsageError
from gantk.runtime import registry
from gantk.runtime.arrays import default_sizes, example_shape, random_array
from gantk.runtime.following import Follows, follows
from gantk.runtime.model import from_path, slowness
from gantk.runtime.probe import Probe
from gantk.runtime.runner import Array, Runner, refuse_small
from gantk.tensors import TensorSpec

Arrays = dict[str, Array]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class File:
    """One ONNX file.

    Args:
        precision: Of the file.
        form: ``plain`` or ``rewritten``.
        size_bytes: Its length.
        fastest_on: Where it is taken before others of its precision: see `gantk.bundle.place_of`.
        is_native: Whether it is so for gantk's native operators alone.
        is_wholly_native: Whether these are all that is heavy in it: see `gantk.bundle.WHOLLY_NATIVE`.
        failures: Where the bundle forbids it (see `gantk.bundle.place_of`), with why.
    """

    precision: str
    form: str
    size_bytes: int
    fastest_on: tuple[str, ...] = ()
    is_native: bool = False
    is_wholly_native: bool = False
    failures: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Subject:
    """A network to benchmark.

    Args:
        path: Of the bundle or the file.
        name: The network's name.
        inputs: What goes in.
        outputs: What comes out.
        files: Its ONNX files.
        checkpoint_bytes: The length of the weights that PyTorch can load, or `None` where it cannot.
        probe: Inputs with PyTorch's float32 outputs; may be empty.
        about: What the JSON document says of it.
        bundle: That it is, where it is one.
        following: The symbols whose sizes follow from those of others.
    """

    path: Path
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    files: tuple[File, ...]
    checkpoint_bytes: int | None = None
    probe: Probe = field(default_factory=Probe)
    about: dict[str, Any] = field(default_factory=dict)
    bundle: Bundle | None = None
    following: Mapping[str, Follows] = field(default_factory=dict)

    @property
    def precisions(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(file.precision for file in self.files))

    def files_for(self, backend: str, device: str) -> list[File]:
        """Of each precision and form the file that `gantk.open` takes for a backend on a device."""
        alike: dict[tuple[str, str], list[File]] = {}
        for file in self.files:
            alike.setdefault((file.precision, file.form), []).append(file)

        def preference(file: File) -> tuple[bool, bool, bool]:
            return place_of(backend, device) in file.failures, *slowness(file, backend, device)

        return [min(files, key=preference) for files in alike.values()]


@dataclass(frozen=True)
class Case:
    """One set of input shapes.

    Args:
        shapes: Of each input, by name.
        batch: The size of the first axis of the first input.
    """

    shapes: dict[str, Shape]
    batch: int

    @property
    def label(self) -> str:
        return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in self.shapes.items())


def describe(path: Path) -> Subject:
    """Read what there is to benchmark at `path`.

    Raises:
        GantkError: There is neither a bundle nor an ONNX file, or it is damaged.
    """
    if path.is_dir():
        return _of_bundle(path)
    model = from_path(path)
    return Subject(
        path=path,
        name=model.name,
        inputs=model.inputs,
        outputs=model.outputs,
        files=(File(model.precision, model.form, len(model.data), is_wholly_native=model.is_wholly_native),),
        about={"kind": "onnx", "path": path.name, "name": model.name},
    )


def open_file(
    path: str, backend: str, precision: str | None, form: str | None, device: str, threads: int
) -> Runner:
    """Open one ONNX file in a worker, whatever its recorded parity: the benchmark judges again."""
    return registry.open_model(from_path(path, precision, form, backend, device), backend, device, threads)


def open_engine(path: str, backend: str, precision: str, form: str) -> Runner:
    """Open an engine of a bundle in a worker."""
    return registry.open(path, backend, precision, "cuda", form=form)


def make_cases(
    inputs: Sequence[TensorSpec],
    batches: Sequence[int] | None,
    shapes: Sequence[tuple[str, Shape]],
    following: Mapping[str, Follows] | None = None,
) -> list[Case]:
    """Every combination of the batch sizes and the shapes asked for.

    Args:
        inputs: The network's.
        batches: For the first axis of every input that has a symbol there; 1 where `None`.
        shapes: Whole shapes by the input's name; a name may come several times. Pictures of any size for
            which there is none have `gantk.runtime.arrays.PICTURE_SIDE`.
        following: See `Subject`.

    Raises:
        UsageError: A shape does not fit an input, or a free size was not given.
        GantkError: A picture is smaller than the network takes.
    """
    names = [spec.name for spec in inputs]
    for name, _ in shapes:
        if name not in names:
            raise UsageError(f"there is no input {name!r}; there are {', '.join(names)}", where="--shape")
    if any(batch < 1 for batch in batches or ()):
        raise UsageError(f"a batch of {min(batches or ())}; at least 1 is wanted", where="--batch")
    choices: list[list[Shape | None]] = [[s for n, s in shapes if n == name] or [None] for name in names]
    sizes: Sequence[int | None] = batches or [None]
    cases: list[Case] = []
    for chosen, batch in product(product(*choices), sizes):
        case = _make_case(inputs, chosen, batch, following or {})
        if case not in cases:
            cases.append(case)
    return cases


def make_feeds(inputs: Sequence[TensorSpec], case: Case, probe: Probe, seed: int) -> Arrays:
    """Inputs for a case: the probe's samples, repeated as needed, where they fit, else random ones.

    Random ones are those of `gantk.runtime.arrays.random_array`.
    """
    if fits_probe(inputs, case, probe):
        return {name: _repeat(probe.inputs[name], shape[0]) for name, shape in case.shapes.items()}
    return {spec.name: random_array(spec, case.shapes[spec.name], seed) for spec in inputs}


def fits_probe(inputs: Sequence[TensorSpec], case: Case, probe: Probe) -> bool:
    """Whether the probe has every input of a case, but for the number of samples."""
    arrays = {spec.name: probe.inputs.get(spec.name) for spec in inputs}
    return all(
        array is not None and array.ndim > 0 and array.shape[1:] == case.shapes[name][1:]
        for name, array in arrays.items()
    )


def probe_outputs(outputs: Sequence[TensorSpec], case: Case, probe: Probe) -> Arrays | None:
    """PyTorch's float32 outputs for the inputs of `make_feeds`, where the probe has them."""
    arrays = {spec.name: probe.outputs.get(spec.name) for spec in outputs}
    found = {name: _repeat(array, case.batch) for name, array in arrays.items() if array is not None}
    return found if len(found) == len(arrays) else None


def _of_bundle(path: Path) -> Subject:
    bundle = Bundle.read(path)
    manifest = bundle.manifest
    files = tuple(
        File(
            v.precision,
            v.form,
            v.file.size_bytes,
            v.fastest_on,
            v.is_native,
            v.is_wholly_native,
            _failures(v),
        )
        for v in manifest.variants
        if v.interface is None  # Others have inputs and outputs of their own.
    )
    return Subject(
        path=path,
        name=manifest.name,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        files=files,
        checkpoint_bytes=None if manifest.checkpoint is None else manifest.checkpoint.size_bytes,
        probe=Probe() if manifest.probe is None else Probe.read(bundle, manifest.probe),
        about={
            "kind": "bundle",
            "path": path.name,
            "name": manifest.name,
            "family": manifest.family,
            "config": manifest.config,
        },
        bundle=bundle,
        following=follows(manifest),
    )


def _failures(variant: Variant) -> dict[str, str]:
    failed = [verdict for verdict in variant.parity if not verdict.passed]
    return {place_of(v.backend, v.device): v.complaint(variant.file.path) for v in reversed(failed)}


def _make_case(
    inputs: Sequence[TensorSpec],
    chosen: Sequence[Shape | None],
    batch: int | None,
    following: Mapping[str, Follows],
) -> Case:
    sizes: dict[str, int] = {}
    for spec, shape in zip(inputs, chosen, strict=True):
        if shape is not None:
            _bind(spec, shape, sizes)
    symbol = inputs[0].shape[0] if inputs[0].shape else None
    fixed = sizes.get(symbol) if isinstance(symbol, str) else symbol
    if isinstance(symbol, str) and fixed is None:
        sizes[symbol] = batch or 1
    elif batch is not None and batch != fixed:
        raise UsageError(
            f"a batch of {batch} was asked for; {inputs[0]} has a batch of {fixed}", where="--batch"
        )
    sizes = default_sizes(inputs, sizes, following)
    for spec in inputs:
        free = [size for size in spec.shape if isinstance(size, str) and size not in sizes]
        # Exporters give each input's batch a symbol of its own; the first axis is the batch all the same.
        if free and spec.shape[0] == free[0]:
            sizes[free.pop(0)] = batch or 1
        if free:
            raise UsageError(
                f"{spec} has sizes that are free: {', '.join(free)}",
                where=str(spec.name),
                hint=f"choose them, for example --shape {example_shape(spec, sizes)}",
            )
    shapes = {spec.name: spec.concrete(sizes) for spec in inputs}
    for spec in inputs:
        refuse_small(spec, shapes[spec.name])
    return Case(shapes, next(iter(shapes.values()), (1,))[0] if inputs[0].shape else 1)


def _bind(spec: TensorSpec, shape: Shape, sizes: dict[str, int]) -> None:
    fits = len(shape) == len(spec.shape) and all(
        size == (sizes.setdefault(wanted, size) if isinstance(wanted, str) else wanted) and size > 0
        for size, wanted in zip(shape, spec.shape, strict=True)
    )
    if not fits:
        known = ", ".join(f"{symbol} = {size}" for symbol, size in sizes.items())
        raise UsageError(
            f"the shape {'x'.join(map(str, shape))} does not fit {spec}"
            + (f" with {known}" if known else ""),
            where="--shape",
        )


def _repeat(array: Array, count: int) -> Array:
    return np.ascontiguousarray(np.take(array, np.arange(count) % len(array), axis=0))

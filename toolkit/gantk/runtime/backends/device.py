# SPDX-License-Identifier: Apache-2.0
"""Arrays in GPU memory: those of others as they offer them, and our own."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime import dlpack
from gantk.runtime.backends.memory import GpuMemory
from gantk.runtime.backends.plans import Shape
from gantk.runtime.cuda import Cuda
from gantk.runtime.lender import Lender
from gantk.runtime.runner import numpy_dtype
from gantk.runtime.streams import Event, Stream
from gantk.runtime.views import LEGACY_STREAM, Reader, View, dense
from gantk.tensors import TensorSpec


def reader(cuda: Cuda, stream: int, alignment: int) -> Reader:
    """Sees arrays for work on a stream; the CUDA Array Interface is trusted to mean this GPU."""
    return Reader(
        stream,
        owner_of=lambda address: cuda.home.ordinal,
        wait_for=lambda other, _: cuda.wait(stream, other),
        hint="run(...) takes arrays in host memory",
        alignment=alignment,
    )


def view(spec: TensorSpec, value: Any, seen: Reader, ordinal: int) -> View:
    """See an array in GPU memory that is to be a tensor of the network.

    Raises:
        GantkError: It is not in the memory of this GPU, has the wrong dtype or shape, is not contiguous, or begins
            where the backend cannot read it.
    """
    if hasattr(value, "__dlpack_device__"):
        kind, its = value.__dlpack_device__()
        # Its library would take our stream for one of that GPU.
        if int(kind) == dlpack.CUDA and its != ordinal:
            raise GantkError(
                f"{spec.name!r} is on GPU {its}; the network is on GPU {ordinal}", where=str(spec)
            )
    found = seen.view(value, repr(spec.name))
    if found.dtype != spec.dtype:
        raise GantkError(
            f"{found.name} has dtype {found.dtype}; the network wants {spec.dtype}", where=str(spec)
        )
    fits = len(found.shape) == len(spec.shape) and all(
        isinstance(wanted, str) or wanted == size
        for wanted, size in zip(spec.shape, found.shape, strict=True)
    )
    if not fits:
        raise GantkError(
            f"{found.name} has shape {list(found.shape)}; the network wants [{', '.join(map(str, spec.shape))}]",
            where=str(spec),
        )
    if not found.is_contiguous():
        raise GantkError(f"{found.name} is not contiguous", where=str(spec), hint="copy it first")
    if found.address % seen.alignment:
        raise GantkError(
            f"{found.name} does not begin at a multiple of {seen.alignment} bytes, as this backend wants",
            where=str(spec),
            hint="copy it first: part of a larger array may begin anywhere",
        )
    return found


@dataclass(frozen=True)
class Placed:
    """An array of the caller's or of ours, and where it lies."""

    array: Any
    address: int


def place_outputs(
    specs: Sequence[TensorSpec],
    shapes: Mapping[str, Shape],
    out: Mapping[str, Any],
    given: Mapping[str, View],
    seen: Reader,
    cuda: Cuda,
    stream: Stream | None,
) -> dict[str, Placed]:
    """Where outputs go: to the arrays of `out`, and to new ones.

    Args:
        specs: Of the outputs.
        shapes: Theirs in this run.
        out: Arrays in GPU memory, by name.
        given: The inputs.
        seen: Sees them.
        cuda: Calls CUDA.
        stream: The caller's, in whose order new ones are there; `None` for any.

    Raises:
        GantkError: An array of `out` does not fit, is no output, or shares memory with another; or memory is short.
    """
    unknown = sorted(out.keys() - {spec.name for spec in specs})
    if unknown:
        known = ", ".join(spec.name for spec in specs)
        raise GantkError(f"the network has no output {unknown[0]!r}; it has {known}")
    placed, others = {}, list(given.values())
    for spec in specs:
        name, shape = spec.name, shapes[spec.name]
        if name in out:
            found = view(spec, out[name], seen, cuda.home.ordinal)
            _check_out(found, shape, others)
            others.append(found)
            placed[name] = Placed(out[name], found.address)
        else:
            array = DeviceArray(cuda, shape, numpy_dtype(spec), name, stream)
            placed[name] = Placed(array, array.address)
    return placed


def _check_out(found: View, shape: Shape, others: Sequence[View]) -> None:
    """Refuse to write where an output does not fit, or where a network still reads, or writes another."""
    if found.read_only:
        raise GantkError(f"`out` for {found.name} is read-only", where=str(found))
    if found.shape != shape:
        raise GantkError(
            f"`out` for {found.name} has shape {list(found.shape)}; the output has {list(shape)}"
        )
    for other in others:
        if found.overlaps(other):
            raise GantkError(f"`out` for {found.name} and {other.name} share memory", where=str(found))


class DeviceArray(Lender):
    """An output in GPU memory of ours, given back when nobody refers to it any more.

    It offers DLPack and the CUDA Array Interface: `torch.from_dlpack(array)` and `cupy.asarray(array)` view it without
    a copy, and what they enqueue waits for the run.

    Args:
        cuda: Calls CUDA, at home.
        shape: Of the array.
        dtype: Of the array.
        name: Of the output, for errors.
        stream: The caller's, in whose order memory is taken and given back (see `GpuMemory`).
        address: Memory for it that is handed over; by default it is taken.

    Attributes:
        ready: Where its values are there; `None` where they are already.
    """

    def __init__(
        self,
        cuda: Cuda,
        shape: Shape,
        dtype: np.dtype[Any],
        name: str,
        stream: Any = None,
        address: int | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self.size_bytes = math.prod(shape) * dtype.itemsize
        self.ready: Event | None = None
        self._cuda = cuda
        caller = None if stream is None else Stream.of(stream)
        self._memory = GpuMemory(cuda, self.size_bytes, f"output {name!r}", caller, address)
        self._stream = caller
        self.address = self._memory.address

    def _lent(self) -> dlpack.Lent:
        ordinal = self._cuda.home.ordinal
        return dlpack.Lent(self.address, ordinal, self.dtype.name, self.shape, dense(self.shape))

    def _lend_to(self, stream: int | None) -> None:
        if stream != -1 and self._stream is not None and Stream.of(stream).handle == self._stream.handle:
            return
        self._memory.used_by_others()
        if self.ready is not None and stream != -1:
            with self._cuda.current():
                self.ready.hold(stream or LEGACY_STREAM)

    def _lend_to_anyone(self) -> int | None:
        # The default stream is always there, unlike the caller's.
        self._lend_to(None)
        self._memory.used_by_others()
        return LEGACY_STREAM if self.ready is not None else None

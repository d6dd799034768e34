# SPDX-License-Identifier: Apache-2.0
"""Arrays in GPU memory: those of others as they offer them, and our own."""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gantk.errors import GantkError
from gantk.runtime import dlpack
from gantk.runtime.cuda import Cuda
from gantk.runtime.runner import numpy_dtype
from gantk.runtime.views import LEGACY_STREAM, Reader, View, dense
from gantk.tensors import TensorSpec

Shape = tuple[int, ...]


def reader(cuda: Cuda, ordinal: int, stream: int) -> Reader:
    """Sees arrays for work on a stream of the caller's; the CUDA Array Interface is trusted to mean this GPU."""
    handle = stream or LEGACY_STREAM
    return Reader(
        handle,
        owner_of=lambda address: ordinal,
        wait_for=lambda other, _: cuda.wait(handle, other),
        hint="run(...) takes arrays in host memory",
    )


def view(spec: TensorSpec, value: Any, seen: Reader, ordinal: int) -> View:
    """See an array in GPU memory that is to be a tensor of the network.

    Raises:
        GantkError: It is not in the memory of this GPU, has the wrong dtype or shape, or is not contiguous.
    """
    found = seen.view(value, repr(spec.name))
    if found.ordinal != ordinal:
        raise GantkError(
            f"{found.name} is on GPU {found.ordinal}; the network is on GPU {ordinal}", where=str(spec)
        )
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
    seen: Reader,
    cuda: Cuda,
    stream: int,
) -> dict[str, Placed]:
    """Where outputs go: to the arrays of `out`, and to new ones on a stream.

    Args:
        specs: Of the outputs.
        shapes: Theirs in this run.
        out: Arrays in GPU memory, by name.
        seen: Sees them.
        cuda: Calls CUDA.
        stream: The caller's.

    Raises:
        GantkError: An array of `out` does not fit, or is no output; or memory is short.
    """
    unknown = sorted(out.keys() - {spec.name for spec in specs})
    if unknown:
        known = ", ".join(spec.name for spec in specs)
        raise GantkError(f"the network has no output {unknown[0]!r}; it has {known}")
    placed = {}
    for spec in specs:
        name, shape = spec.name, shapes[spec.name]
        if name in out:
            found = view(spec, out[name], seen, cuda.device())
            if found.read_only:
                raise GantkError(f"`out` for {name!r} is read-only", where=str(spec))
            if found.shape != shape:
                raise GantkError(
                    f"`out` for {name!r} has shape {list(found.shape)}; the output has {list(shape)}"
                )
            placed[name] = Placed(out[name], found.address)
        else:
            array = DeviceArray(cuda, shape, numpy_dtype(spec), name, stream)
            placed[name] = Placed(array, array.address)
    return placed


class DeviceArray(dlpack.Lender):
    """An output in GPU memory of ours, given back when nobody refers to it any more.

    It offers DLPack and the CUDA Array Interface: `torch.from_dlpack(array)` and `cupy.asarray(array)` view it without
    a copy. The former waits for the run by itself; the latter leaves that to who takes it.

    Args:
        cuda: Calls CUDA.
        shape: Of the array.
        dtype: Of the array.
        name: Of the output, for errors.
        stream: On which its values are computed.
        address: Memory for it that is handed over; by default it is taken.
    """

    def __init__(
        self,
        cuda: Cuda,
        shape: Shape,
        dtype: np.dtype[Any],
        name: str,
        stream: int,
        address: int | None = None,
    ) -> None:
        self.shape, self.dtype = shape, dtype
        self._cuda, self._stream, self._ordinal = cuda, stream or LEGACY_STREAM, cuda.device()
        self.size_bytes = math.prod(shape) * dtype.itemsize
        self.address = cuda.allocate(self.size_bytes, f"output {name!r}") if address is None else address
        weakref.finalize(self, cuda.free, self.address)

    def __repr__(self) -> str:
        return f"<DeviceArray {self.dtype.name}{list(self.shape)} on GPU {self._ordinal}>"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
        }

    def _lent(self) -> dlpack.Lent:
        return dlpack.Lent(self.address, self._ordinal, self.dtype.name, self.shape, dense(self.shape))

    def _lend_to(self, stream: int | None) -> None:
        self._cuda.wait(stream or LEGACY_STREAM, self._stream)

# SPDX-License-Identifier: Apache-2.0
"""GPU memory that a runner gives away."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

from gantk.errors import GantkError
from gantk.runtime.captures import NOT_YET, give_back
from gantk.runtime.cuda import Cuda
from gantk.runtime.streams import Stream


@dataclass
class _Use:
    """Who uses the memory: the stream in whose order it was taken, if any, and perhaps others."""

    stream: Stream | None
    by_others: bool = False


class GpuMemory:
    """Bytes on a GPU, given back when nobody refers to them any more.

    On a stream that is certain to be there then, they are taken and given back in its order, which waits for nothing.
    Where others used them, all work on the GPU is waited for first: their streams may be gone, and cannot be asked.
    Everywhere else CUDA waits for the GPU by itself.

    Args:
        cuda: Calls CUDA, at home.
        size_bytes: How much.
        what: What for, for errors.
        stream: The caller's.
        address: Memory outside of any stream's order that is handed over; by default memory is taken.

    Raises:
        GantkError: There is not so much; or the stream is being captured into a graph, whose memory would be its own.
    """

    def __init__(
        self, cuda: Cuda, size_bytes: int, what: str, stream: Stream | None, address: int | None = None
    ) -> None:
        ordered = (
            stream if address is None and stream is not None and stream.lasts and cuda.has_pools else None
        )
        if address is None:
            _refuse_capture(cuda, stream)
            address = cuda.allocate(size_bytes, what, ordered.handle if ordered else None)
        self.address = address
        self._use = use = _Use(ordered)
        finalizer = weakref.finalize(self, give_back, lambda: _free(cuda, address, use))
        finalizer.atexit = False  # At exit the driver frees everything, and others may still use it.

    def used_by_others(self) -> None:
        """Note that another stream may use the memory."""
        self._use.by_others = True


def _refuse_capture(cuda: Cuda, stream: Stream | None) -> None:
    if stream is not None and cuda.is_captured(stream.handle):
        raise GantkError(
            "memory is wanted on a stream that is being captured into a graph", hint="give `out`, made before"
        )


def _free(cuda: Cuda, address: int, use: _Use) -> str | None:
    with cuda.current():
        # A graph gives back no memory but its own, and to wait for the GPU would spoil the capture.
        if use.stream is not None and cuda.is_captured(use.stream.handle):
            return NOT_YET
        if use.stream is not None and not use.by_others:
            cuda.free_on(address, use.stream.handle)
            return None
        if use.stream is not None:
            cuda.synchronize_gpu()
        cuda.free(address)
    return None

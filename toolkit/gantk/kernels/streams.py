# SPDX-License-Identifier: Apache-2.0
"""Streams as other libraries name them, and how one waits for another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gantk.errors import GantkError
from gantk.kernels.device import GPU
from gantk.kernels.driver import bindings, call

_LEGACY = 1  # The driver's handle of the default stream; 0 stands for it too.


@dataclass(frozen=True)
class Stream:
    """A stream that somebody else made.

    Args:
        handle: The driver's, never 0.
        owner: The object it was taken from, which keeps it alive.
    """

    handle: int = _LEGACY
    owner: object = None

    @classmethod
    def of(cls, stream: Any) -> Stream:
        """See a stream.

        Args:
            stream: `None` for the default stream, a handle, anything with ``__cuda_stream__``, or a stream of
                torch, CuPy or pycuda.

        Raises:
            GantkError: It is none of these.
        """
        if isinstance(stream, Stream):
            return stream
        if stream is None:
            return cls()
        handle = stream
        if hasattr(stream, "__cuda_stream__"):
            _, handle = stream.__cuda_stream__()
        else:
            for name in ("cuda_stream", "ptr", "handle"):
                handle = getattr(handle, name, handle)
        if not isinstance(handle, int) or isinstance(handle, bool) or handle < 0:
            raise GantkError(
                f"the stream is {stream!r}, a {type(stream).__name__}; a CUDA stream or its handle is wanted"
            )
        return cls(handle or _LEGACY, stream)

    def wait_for(self, other: Stream, gpu: GPU) -> None:
        """Let all that this stream gets from now on wait for all that the other has got so far."""
        if other.handle == self.handle:
            return
        with gpu.current():
            event = call("cuEventCreate", bindings().CUevent_flags.CU_EVENT_DISABLE_TIMING)
            try:
                call("cuEventRecord", event, other.handle)
                call("cuStreamWaitEvent", self.handle, event, 0)
            finally:
                call("cuEventDestroy", event)

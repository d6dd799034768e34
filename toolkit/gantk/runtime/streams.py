# SPDX-License-Identifier: Apache-2.0
"""Streams as other libraries name them, and events that outlive them."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, Self

from gantk.errors import GantkError
from gantk.runtime.captures import give_back
from gantk.runtime.cuda import Cuda
from gantk.runtime.views import LEGACY_STREAM

_DEFAULT_STREAMS = (LEGACY_STREAM, 2)  # The second is that of each thread.


@dataclass(frozen=True)
class Stream:
    """A stream that somebody else made.

    Args:
        handle: The driver's, never 0.
        owner: What it was taken from; an object keeps it alive, a handle does not.
    """

    handle: int = LEGACY_STREAM
    owner: object = None

    @classmethod
    def of(cls, stream: Any) -> Self:
        """See a stream.

        Args:
            stream: `None` for the default stream, a handle, anything with ``__cuda_stream__``, or a stream of
                torch, CuPy or pycuda.

        Raises:
            GantkError: It is none of these.
        """
        if isinstance(stream, cls):
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
        return cls(handle or LEGACY_STREAM, stream)

    @property
    def is_default(self) -> bool:
        """Whether it is a default stream, the GPU's or the thread's."""
        return self.handle in _DEFAULT_STREAMS

    @property
    def lasts(self) -> bool:
        """Whether it is there for certain as long as this is: of a bare handle nobody knows."""
        return not isinstance(self.owner, int | None) or self.is_default


class Event:
    """A place in a stream for others to wait for, however long that stream is there.

    Args:
        cuda: Calls CUDA, at home.
    """

    def __init__(self, cuda: Cuda) -> None:
        handle = cuda.untimed_event()
        self._cuda, self._handle = cuda, handle
        finalizer = weakref.finalize(self, give_back, lambda: cuda.destroy_event(handle))
        finalizer.atexit = False

    def record(self, stream: Any) -> None:
        """Let it be after all that a stream has got so far, and no longer where it was."""
        self._cuda.record(self._handle, stream)

    def hold(self, stream: Any) -> None:
        """Let all that a stream gets from now on wait for it."""
        self._cuda.hold(stream, self._handle)

    def synchronize(self) -> None:
        """Wait for it."""
        self._cuda.synchronize_event(self._handle)

# SPDX-License-Identifier: Apache-2.0
"""The driver's context in which a runner's streams and memory are, whatever GPU the calling thread has current."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from gantk.errors import GantkError

if TYPE_CHECKING:
    from gantk.runtime.cuda import Cuda


_NOTHING = nullcontext()


def bindings() -> Any:
    """The module `cuda.bindings.driver`; who gets here has that of CUDA's runtime, of the same package."""
    from cuda.bindings import driver

    return driver


class DriverContext:
    """The context that is current for the thread that makes this, to be made current for others.

    Args:
        calls: Calls CUDA.

    Attributes:
        ordinal: The number of its GPU.
    """

    def __init__(self, calls: Cuda) -> None:
        self.ordinal = calls.device()
        self._calls, self._driver = calls, bindings()
        self._handle = self._call("cuCtxGetCurrent")
        self._number = int(self._handle)

    def current(self) -> AbstractContextManager[None]:
        """Make it the calling thread's for the block, and then the one that was.

        `cudaSetDevice` would not do: to put the caller's GPU back it would make a context there, which takes some
        hundred MiB, and it takes the primary context where the caller works in another, as pycuda does.
        """
        # Nearly always it is; a call of a small network takes long enough to tell microseconds.
        return _NOTHING if int(self._call("cuCtxGetCurrent")) == self._number else self._pushed()

    @contextmanager
    def _pushed(self) -> Iterator[None]:
        before = self._calls.device()
        self._call("cuCtxPushCurrent", self._handle)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")
            # ONNX Runtime makes its GPU current, and in a thread that had no context that would stay so.
            if self._calls.device() != before:
                self._calls.set_device(before)

    def _call(self, name: str, *arguments: Any) -> Any:
        found = getattr(self._driver, name)(*arguments)
        if found[0].value != 0:
            raise GantkError(f"CUDA's {name} failed: {found[0].name}", where=name)
        return found[1] if len(found) > 1 else None

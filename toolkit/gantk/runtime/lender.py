# SPDX-License-Identifier: Apache-2.0
"""Arrays in GPU memory of ours, as DLPack and the CUDA Array Interface offer them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from gantk.runtime import dlpack


class Lender(ABC):
    """An array in GPU memory that any library may view, without a copy."""

    @abstractmethod
    def _lent(self) -> dlpack.Lent:
        """The memory."""

    @abstractmethod
    def _lend_to(self, stream: int | None) -> None:
        """Let what a stream gets next find the values there.

        Args:
            stream: The consumer's; `None` for the default stream, -1 where it sees to the order itself and does not
                say which it is.
        """

    @abstractmethod
    def _lend_to_anyone(self) -> int | None:
        """Let somebody see the memory who does not say for which stream.

        Returns:
            The stream that he is to wait for; `None` where the values are there.
        """

    def __repr__(self) -> str:
        lent = self._lent()
        return f"<{type(self).__name__} {lent.dtype}{list(lent.shape)} on GPU {lent.ordinal}>"

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        lent = self._lent()
        if lent.dtype == "bfloat16":
            raise AttributeError("the CUDA Array Interface has no bfloat16; use DLPack")
        dtype = np.dtype(lent.dtype)
        return {
            "version": 3,
            "shape": lent.shape,
            "typestr": dtype.str,
            "data": (lent.address, False),
            "strides": tuple(stride * dtype.itemsize for stride in lent.strides),
            "stream": self._lend_to_anyone(),
        }

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self._lent().ordinal

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule over the memory, whose values are there for what the consumer's stream gets next.

        Args:
            stream: The consumer's; `None` for the default stream, -1 where it sees to the order itself.
            max_version: The newest DLPack that the consumer reads.
            dl_device: The device that it wants, as DLPack numbers it; this array's alone is given.
            copy: `True` is refused.

        Raises:
            BufferError: The consumer wants a copy or another device.
        """
        if copy or (dl_device is not None and tuple(map(int, dl_device)) != self.__dlpack_device__()):
            raise BufferError(f"{self!r} is given as it is, where it is; a copy or another device was wanted")
        self._lend_to(stream)
        return dlpack.make(self, self._lent(), versioned=max_version is not None and max_version[0] >= 1)

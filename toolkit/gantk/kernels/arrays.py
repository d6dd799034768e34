# SPDX-License-Identifier: Apache-2.0
"""Other libraries' arrays in GPU memory, seen without a copy and in the order of the caller's stream."""

from __future__ import annotations

from typing import Any

from gantk.kernels.device import gpu
from gantk.kernels.driver import bindings, call
from gantk.kernels.streams import Stream
from gantk.runtime.views import Reader, View


def view(value: Any, name: str, stream: Stream) -> View:
    """See an array of another library, whose work on it is done before what `stream` gets next.

    Args:
        value: A view, or what `gantk.runtime.views.Reader` sees.
        name: For messages.
        stream: The caller's.

    Raises:
        GantkError: It is no array, is not in GPU memory, or cannot be seen.
    """
    if isinstance(value, View):
        return value
    reader = Reader(
        stream.handle,
        owner_of=_owner_of,
        wait_for=lambda other, ordinal: stream.wait_for(Stream.of(other), gpu(ordinal)),
        hint="gantk.kernels.to_device(array) copies a numpy array to the GPU",
    )
    return reader.view(value, name)


def _owner_of(address: int) -> int:
    """The GPU whose memory an address is in."""
    wanted = bindings().CUpointer_attribute.CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL
    return int(call("cuPointerGetAttribute", wanted, address))

# SPDX-License-Identifier: Apache-2.0
"""How one stream waits for another."""

from __future__ import annotations

from gantk.kernels.device import GPU
from gantk.kernels.driver import bindings, call
from gantk.runtime import streams


class Stream(streams.Stream):
    """A stream that somebody else made, which may wait for others."""

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

# SPDX-License-Identifier: Apache-2.0
"""Programmatic dependent launches: what a kernel may touch before it has waited for the launch before it.

Such a launch may begin while those before it, back to the last that began when all was over, still run. Until
`griddepcontrol.wait` a thread reads nothing that these write, and writes nothing at all, since they may read it.
"""

from __future__ import annotations

import numpy as np

from .faults import Fault
from .machine import Machine
from .numbers import Array
from .operands import Mask
from .segments import Step, emitter
from .syntax import Instruction


@emitter("griddepcontrol")
def _emit(machine: Machine, instruction: Instruction) -> Step | None:
    if "wait" not in instruction.parts:
        return None

    def wait(mask: Mask) -> None:
        machine.waited[machine.active(mask)] = True

    return wait


def check_read(
    machine: Machine, address: Array, count: Array | int, threads: Array, *, constant: bool = False
) -> None:
    """Of a dependent launch: `count` bytes at each address, which are in bounds, by threads that may have waited.

    `constant`: by `ld.global.nc`, of what is written at no time while the launch is there.
    """
    written = machine.memory.of_earlier(address, np.broadcast_to(count, address.shape))
    if constant and written.any():
        raise Fault(
            "ld.global.nc of what an earlier launch writes, which may not have ended when this one begins"
        )
    if (written & ~machine.waited[threads]).any():
        raise Fault("reads what an earlier launch writes, before `griddepcontrol.wait`")


def check_write(machine: Machine, threads: Array) -> None:
    """For any thread that writes to global memory."""
    if not machine.waited[threads].all():
        raise Fault("writes global memory before `griddepcontrol.wait`: an earlier launch may still need it")

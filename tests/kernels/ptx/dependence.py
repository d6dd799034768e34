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


def check_read(machine: Machine, address: Array, count: Array | int, threads: Array) -> None:
    """Of a dependent launch: `count` bytes at each address, for threads of which some may not have waited."""
    early = ~machine.waited[threads]
    if early.any():
        counts = np.broadcast_to(count, address.shape)[early]
        if machine.memory.of_earlier(address[early], counts).any():
            raise Fault("reads what an earlier launch writes, before `griddepcontrol.wait`")


def check_write(machine: Machine, threads: Array) -> None:
    """For any thread that writes to global memory."""
    if not machine.waited[threads].all():
        raise Fault("writes global memory before `griddepcontrol.wait`: an earlier launch may still need it")

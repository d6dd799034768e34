# SPDX-License-Identifier: Apache-2.0
"""setmaxnreg: warp groups that give registers back and claim others, within what a multiprocessor has."""

from __future__ import annotations

import numpy as np

from .faults import Fault
from .machine import Machine
from .operands import Mask
from .segments import Step, emitter
from .syntax import Instruction
from .warp import full_warps

REGISTERS = 65536  # Of a multiprocessor, which a block has for itself here.
COUNTS = range(24, 257, 8)  # PTX ISA, setmaxnreg.


class Registers:
    """How many registers each thread may use; at first as many as all threads of a block can have."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.first = min(REGISTERS // machine.threads // 8 * 8, 255)
        self.counts = np.full(machine.lanes, self.first)
        machine.resetters.append(lambda: self.counts.fill(self.first))
        machine.finishers.append(self.check)

    def check(self) -> None:
        """A claim waits until others have given back enough: here it does not, and what is left over is counted."""
        machine = self.machine
        held = np.bincount(machine.of_block, np.where(machine.exists, self.counts, 0))
        if held.max() > REGISTERS:
            raise Fault(
                f"setmaxnreg.inc waits for ever: a block claims {int(held.max())} of {REGISTERS} registers"
            )


@emitter("setmaxnreg")
def _emit(machine: Machine, instruction: Instruction) -> Step:
    count = int(machine.read(instruction.operands[0], "u32"))
    if count not in COUNTS:
        raise Fault(f"setmaxnreg of {count} registers; a multiple of 8 from 24 to 256 is wanted")
    registers: Registers = machine.extension(Registers)
    machine.require(full_warps(machine, 128))

    def step(mask: Mask) -> None:
        registers.counts[machine.active(mask)] = count

    return step

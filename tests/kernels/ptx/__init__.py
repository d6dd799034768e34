# SPDX-License-Identifier: Apache-2.0
"""An interpreter of PTX in numpy, so that real compiled kernels run, and are checked, without a GPU.

What it executes is PTX text, as NVRTC writes it, of `.entry` functions (no calls). Beyond results it checks:

- global memory: bounds of the allocation, with gaps between them; alignment; reads of what was never written; blocks
  of one launch that meet in a place without an atomic and its fences; warps of one block that meet there without a
  barrier; two threads that store different values at once; `ld.global.nc` of what the launch writes;
- shared memory: bounds, alignment, and with vector clocks races of warps, of cp.async, of bulk copies and of wgmma, so
  that a missing barrier, wait, arrival or proxy fence is a fault; within a warp, reads of what another thread wrote
  without `__syncwarp`;
- barriers, named ones and mbarriers: deadlock, divergence, counts, over-arrival, use before initialisation, exited
  threads; warp collectives without all their threads; copies onto an mbarrier without its fence, or that nobody waits
  for; `setmaxnreg` beyond what there is;
- wgmma: accumulators and operands touched before `wait_group` covers them, a missing `fence` or `commit_group`;
- a programmatic dependent launch: what it reads and writes before `griddepcontrol.wait`, and that some thread waits;
- an unknown instruction, which raises with its text, and a run that does not end.

What it does not show: time; a thread of a warp overwriting what another of the same warp has yet to read; races of the
warps of one block in global memory with atomics, or with any but the last of several readers; the last bits of
approximate instructions, computed exactly here, and of sums on tensor cores, made in float32 (or, on request, cut off
as measured: see `cutting`). Clusters, multicast, bulk stores and `.func` calls are not known to it, nor, in dependent
launches, bulk copies.
"""

from . import (  # noqa: F401
    accesses,
    arithmetic,
    bits,
    bulk,
    comparisons,
    control,
    conversions,
    dependence,
    mbarriers,
    mma,
    registers,
    warp,
    wgmma,
)
from .faults import BudgetExceeded, Fault, Unsupported
from .machine import Machine
from .memory import Memory
from .text import Module, parse

__all__ = ["BudgetExceeded", "Fault", "Machine", "Memory", "Module", "Unsupported", "parse"]

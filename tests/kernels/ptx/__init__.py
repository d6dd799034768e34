# SPDX-License-Identifier: Apache-2.0
"""An interpreter of PTX in numpy, so that real compiled kernels run, and are checked, without a GPU."""

from . import accesses, arithmetic, bits, bulk, comparisons, control, conversions, mbarriers, mma, warp, wgmma  # noqa: F401
from .faults import BudgetExceeded, Fault, Unsupported
from .machine import Machine
from .memory import Memory
from .text import Module, parse

__all__ = ["BudgetExceeded", "Fault", "Machine", "Memory", "Module", "Unsupported", "parse"]

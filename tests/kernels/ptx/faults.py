# SPDX-License-Identifier: Apache-2.0
"""What the interpreter raises: a fault names the instruction and, where there is one, the first bad thread."""

from __future__ import annotations


class Fault(Exception):  # noqa: N818 (what it is called in this field)
    """A kernel broke a rule of the machine: bounds, alignment, a race, a barrier, an asynchronous result."""


class Unsupported(Fault):
    """The interpreter does not know an instruction or an operand; the text is in the message."""


class BudgetExceeded(Fault):
    """The kernel executed more instructions than the run allows: most likely it never ends."""

# SPDX-License-Identifier: Apache-2.0
"""For which architecture to compile, given the GPU at hand and what NVRTC knows."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from gantk.errors import GantkError

Capability = tuple[int, int]

TESTED: tuple[Capability, ...] = ((7, 5), (8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0))
"""The compute capabilities that the kernels are compiled and tested for."""

_OF_THE_CHIP = ((9, 0),)  # wgmma is there in sm_90a alone, whose code runs on no other chip.


@dataclass(frozen=True)
class Target:
    """What NVRTC is told to compile for.

    Args:
        name: E.g. ``sm_86``, or ``compute_90`` for PTX, which the driver compiles on for the GPU.
    """

    name: str

    @property
    def is_ptx(self) -> bool:
        return self.name.startswith("compute_")

    @property
    def waits(self) -> bool:
        """Whether kernels can wait for the launch before them, which `Launch.dependent` is about: from sm_90 on."""
        return int(self.name.partition("_")[2].rstrip("a")) >= 90


def target_for(capability: Capability, known: Collection[int] | None = None) -> Target:
    """The best target for a GPU: machine code of its own family where there is some, else PTX of an older one.

    Machine code of a capability X.y runs on X.z where z >= y; PTX runs on every later capability.

    Args:
        capability: That of the GPU, e.g. (8, 6).
        known: The architectures that NVRTC compiles for, e.g. 86; by default all that are tested.

    Raises:
        GantkError: The GPU is older than all of them.
    """
    usable = [tested for tested in TESTED if known is None or 10 * tested[0] + tested[1] in known]
    older = [tested for tested in usable if tested <= capability]
    if not older:
        allowed = ", ".join(f"{major}.{minor}" for major, minor in usable) or "none that this NVRTC knows"
        raise GantkError(
            f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels are for {allowed} "
            "and later ones",
            hint="gantk.ops computes the same without the kernels",
        )
    if capability in _OF_THE_CHIP and capability in older:
        return Target(f"sm_{capability[0]}{capability[1]}a")
    nearest = max(older)
    kind = "sm" if nearest[0] == capability[0] and nearest not in _OF_THE_CHIP else "compute"
    return Target(f"{kind}_{nearest[0]}{nearest[1]}")

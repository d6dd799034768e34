# SPDX-License-Identifier: Apache-2.0
"""The command of the vendor's own benchmark that does the same work as a row of ours."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gantk.bundle import Engine
from gantk.tensors import TensorSpec

Shape = tuple[int, ...]

_INDICES = ("int32", "int64")

# What makes each tool do what a bound run does: one CUDA graph, waited for without sleeping, and no copies. TensorRT's
# "Command-Line Programs": from TensorRT 11 on trtexec does so by itself, and takes the flags. "Performance" of TensorRT
# for RTX, whose tool does so too; its engines want their memory given, and a shape's own kernels are to be waited for.
_TOOLS = {
    "tensorrt": ("trtexec", "--noDataTransfers", "--useCudaGraph", "--useSpinWait"),
    "tensorrt-rtx": ("tensorrt_rtx", "--allocationStrategy=runtime", "--specializeStrategyDS=eager"),
}


@dataclass(frozen=True)
class VendorTool:
    """How the vendor's own benchmark runs an engine.

    Args:
        path: Of the engine's file.
        engine: What the manifest says of it.
        inputs: Of the network.
    """

    path: Path
    engine: Engine
    inputs: tuple[TensorSpec, ...]

    def command(self, shapes: Mapping[str, Shape]) -> str | None:
        """The command line for a case of a bound run.

        `None` where no profile of the engine serves it, or an input has indices, such as a class: the tools feed
        any numbers, and an index out of range reads what is not the network's.
        """
        if any(spec.dtype in _INDICES for spec in self.inputs):
            return None
        profile = next(
            (
                index
                for index, profile in enumerate(self.engine.profiles)
                if all(served.holds(shapes[name]) for name, served in profile.items())
            ),
            None,
        )
        if profile is None:
            return None
        program, *flags = _TOOLS[self.engine.backend]
        words = [program, f"--loadEngine={self.path}"]
        # Inputs whose sizes are fixed take none.
        free = [
            f"{_quoted(spec.name)}:{'x'.join(map(str, shapes[spec.name]))}"
            for spec in self.inputs
            if spec.is_dynamic
        ]
        words += [f"--shapes={','.join(free)}"] if free else []
        words += [f"--useProfile={profile}"] if profile else []
        words += ["--versionCompatible"] if "version-compatible" in self.engine.options else []
        words += [f"--dynamicPlugins={library}" for library in self.engine.plugins]
        return shlex.join([*words, *flags])


def _quoted(name: str) -> str:
    """An input's name as the tools want it: within quotes where it has a colon."""
    return f"'{name}'" if ":" in name else name

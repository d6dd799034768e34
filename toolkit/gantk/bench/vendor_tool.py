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

# What makes each tool do what the runner does: copies in and out, and one CUDA graph. TensorRT's "Command-Line
# Programs", and "Performance Benchmarking" of TensorRT for RTX, whose tool captures a graph by itself, as trtexec does
# from TensorRT 11 on, when both leave the copies out. Engines of TensorRT for RTX want their memory given.
_TOOLS = {
    "tensorrt": ("trtexec", "--includeDataTransfers"),
    "tensorrt-rtx": ("tensorrt_rtx", "--allocationStrategy=runtime", "--includeDataTransfers"),
}
_TRTEXEC_10 = ("trtexec", "--useCudaGraph")


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
        """The command line for a case; `None` where no profile of the engine serves it."""
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
        is_old = self.engine.backend == "tensorrt" and self.engine.version.startswith("10.")
        program, *flags = _TRTEXEC_10 if is_old else _TOOLS[self.engine.backend]
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

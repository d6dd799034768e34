# SPDX-License-Identifier: Apache-2.0
"""The kernels of the TensorRT plugins: which there are, and their PTX.

A quick deployable plugin is one kernel that takes pointers and 32-bit integers, so that whatever else a kernel wants is
compiled in. A few lines of text choose it from the templates of `kernels/cuda/*_plugin.cuh`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from gantk.errors import GantkError, UsageError
from gantk.kernels.architecture import TESTED, Capability, Target
from gantk.kernels.compile import compile_unit
from gantk.kernels.launch import ELEMENT_BYTES
from gantk.kernels.sources import Sources, sources
from gantk.kernels.variation_plan import KINDS

SIMT = "simt"
MATHS = {
    SIMT: tuple(ELEMENT_BYTES),
    "exact": ("float32",),
    "tf32": ("float32",),
    "f16": ("float16",),
    "bf16": ("bfloat16",),
}
"""How partial sums are made, as `gantk.kernels.gram_variants` names it, and the types of features each takes."""

_ELEMENTS = {"float32": "float", "float16": "Float16", "bfloat16": "BFloat16"}
_MMA = {"exact": "MmaExact", "tf32": "MmaTf32", "f16": "MmaHalf<Float16>", "bf16": "MmaHalf<BFloat16>"}
_VARIATIONS = {"l1": "L1", "l2": "L2", "isotropic": "Isotropic"}
_SIMT_TILE = 64


@dataclass(frozen=True)
class Kernel:
    """A kernel of a plugin.

    Args:
        name: Its entry point.
        text: The CUDA C++ that it is compiled from.
    """

    name: str
    text: str

    def ptx(self, target: Target) -> str:
        """Its PTX; neither a GPU nor a driver is wanted.

        Raises:
            BackendMissingError: NVRTC is not installed.
            GantkError: It does not compile.
        """
        return _ptx(self.text, target)


def plugin_target(capability: Capability) -> Target:
    """The PTX that suits a GPU and all later ones.

    Raises:
        GantkError: The GPU is older than all that the kernels are tested for.
    """
    older = [tested for tested in TESTED if tested <= capability]
    if not older:
        raise GantkError(
            f"the GPU has compute capability {capability[0]}.{capability[1]}; the kernels want at least "
            f"{TESTED[0][0]}.{TESTED[0][1]}"
        )
    return Target("compute_{}{}".format(*max(older)))


def partial_kernel(dtype: str, math: str, tile: int) -> Kernel:
    """Partial sums of a Gram matrix: (features, channels, places, slice, splits, partial)."""
    if math not in MATHS or dtype not in MATHS[math] or (math == SIMT and tile != _SIMT_TILE):
        raise UsageError(f"there is no Gram kernel {math!r} for {dtype} with tiles of {tile}")
    element = _ELEMENTS[dtype]
    work = (
        f"gram_partial_simt<{element}>" if math == SIMT else f"gram_partial_mma<{_MMA[math]}, true, {tile}>"
    )
    name = f"gantk_plugin_gram_{math}_{dtype}_{tile}"
    line = f"GANTK_PLUGIN_PARTIAL({name}, {element}, {tile}, {threads_of(math, tile)}, {blocks_of(math, tile)}, {work})"
    return Kernel(name, _text("gram_plugin.cuh", line))


def threads_of(math: str, tile: int) -> int:
    """Threads of a block of partial sums."""
    return 128 if math == SIMT else 2 * tile


def blocks_of(math: str, tile: int) -> int:
    """Blocks that a multiprocessor is to hold, as in `kernels/cuda/gram*.cu`: registers are shared out for so many."""
    if math == SIMT:
        return 3
    return (256 if math != "exact" else 128) // tile


def reduce_kernel(tile: int, groups: int, scale: float) -> Kernel:
    """The sum of partial sums: (partial, features, channels, places, splits, gram)."""
    name = f"gantk_plugin_gram_reduce_{tile}_{groups}"
    line = f"GANTK_PLUGIN_REDUCE({name}, {tile}, {groups}, {_float(scale)})"
    return Kernel(name, _text("gram_plugin.cuh", line))


def variation_kernel(dtype: str, kind: str, eps: float, *, packed: bool) -> Kernel:
    """Total variation: (pictures, channels, height, width, rows, partials, gradient)."""
    if kind not in KINDS:
        raise UsageError(f"the kind of total variation is {kind!r}; allowed are {', '.join(KINDS)}")
    rows = f"{'Packed' if packed else 'Strided'}Rows<{_ELEMENTS[dtype]}>"
    name = f"gantk_plugin_variation_{kind}_{dtype}_{'packed' if packed else 'strided'}"
    line = f"GANTK_PLUGIN_VARIATION({name}, {_VARIATIONS[kind]}, {rows}, {KINDS.index(kind)}u, {_float(eps)})"
    return Kernel(name, _text("variation_plugin.cuh", line))


def finish_kernel() -> Kernel:
    """The sum of a picture's blocks: (partials, blocks, value)."""
    name = "gantk_plugin_variation_finish"
    return Kernel(name, _text("variation_plugin.cuh", f"GANTK_PLUGIN_VARIATION_FINISH({name})"))


def _text(header: str, line: str) -> str:
    return f'#include "{header}"\nusing namespace gantk::kernels;\n{line}\n'


def _float(value: float) -> str:
    """A C++ literal of the same float32."""
    return f"{float(value).hex()}f"


@lru_cache(maxsize=256)
def _ptx(text: str, target: Target) -> str:
    own = Sources({"plugin": text}, sources().headers, sources().digest)
    return compile_unit("plugin", target, own).rstrip(b"\0").decode()

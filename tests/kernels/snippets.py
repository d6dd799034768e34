# SPDX-License-Identifier: Apache-2.0
"""Small CUDA kernels for the interpreter's own tests, and how they are run: interpreted, or on a GPU.

A snippet's kernel is `k(const __grid_constant__ P p)` with `P` as below: pointers to inputs, to outputs, and room for
one tensor map. Its body sees `t`, the thread's number in its block.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from interpreted import ptx_text
from ptx import Machine, Memory, parse

PROLOGUE = """
typedef unsigned char u8; typedef unsigned short u16; typedef unsigned int u32; typedef unsigned long long u64;
struct P { const void* in[4]; void* out[4]; alignas(64) unsigned char map[128]; };
__device__ __forceinline__ u32 shared_address(const void* p) { return (u32)__cvta_generic_to_shared(p); }
"""
MAP_OFFSET = 64
Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Map:
    """The one tensor map of a snippet, over its first input; fields as `gantk.kernels.launch.TensorMap`."""

    element: str
    sizes: tuple[int, ...]
    strides_bytes: tuple[int, ...]
    box: tuple[int, ...]
    swizzle: int
    offset: int = MAP_OFFSET
    address: int = 0


@dataclass(frozen=True)
class Snippet:
    """A kernel with its inputs, and what it should write, from numpy.

    Args:
        name: Of the test.
        body: CUDA C++ of the kernel.
        inputs: Arrays, or nothing.
        expected: What the outputs should be; their shapes and types too.
        arch: Of the code that is run.
        grid: Blocks.
        block: Threads a block.
        shared: Dynamic shared memory, in bytes.
        outside: CUDA C++ before the kernel.
        map: The tensor map.
        initial: What an output holds before, instead of nothing.
    """

    name: str
    body: str
    inputs: tuple[Array, ...] = ()
    expected: tuple[Array, ...] = ()
    arch: str = "sm_80"
    grid: int = 1
    block: int = 32
    shared: int = 0
    outside: str = ""
    map: Map | None = None
    initial: dict[int, Array] = field(default_factory=dict)

    @property
    def source(self) -> str:
        return (
            f"{PROLOGUE}{self.outside}\n"
            f'extern "C" __global__ void __launch_bounds__({self.block}) k(const __grid_constant__ P p) {{\n'
            f"const u32 t = threadIdx.x;\n{self.body}\n}}\n"
        )


def ptx_of(source: str, arch: str) -> str:
    """PTX of a CUDA source, cached like that of the kernels."""
    return ptx_text(source, "snippet", "compute_" + arch.removeprefix("sm_"), ())


def interpret(snippet: Snippet, ptx: str | None = None, blocks: int = 2) -> tuple[Array, ...]:
    """Run a snippet in the interpreter; `ptx` replaces its code. Returns its outputs."""
    module = parse(ptx if ptx is not None else ptx_of(snippet.source, snippet.arch))
    memory = Memory()
    inputs = [memory.put(each) for each in snippet.inputs]
    outputs = [
        memory.put(snippet.initial[i]) if i in snippet.initial else memory.empty(each.shape, each.dtype)
        for i, each in enumerate(snippet.expected)
    ]
    pointers = [*inputs, *[0] * (4 - len(inputs)), *outputs, *[0] * (4 - len(outputs))]
    parameters = struct.pack("<8Q", *pointers) + bytes(128)
    machine = Machine(
        module.entries["k"], module.variables, (snippet.block, 1, 1), (snippet.grid, 1, 1), snippet.shared,
        min(blocks, snippet.grid),
    )  # fmt: skip
    maps = ()
    if snippet.map is not None:
        given = snippet.map
        maps = (
            Map(
                given.element,
                given.sizes,
                given.strides_bytes,
                given.box,
                given.swizzle,
                MAP_OFFSET,
                inputs[0],
            ),
        )
    machine.run(memory, parameters, maps, budget=200_000)
    return tuple(memory.get(each) for each in outputs)

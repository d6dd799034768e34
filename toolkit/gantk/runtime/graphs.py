# SPDX-License-Identifier: Apache-2.0
"""What a captured CUDA graph does, looked at before it is launched again and again."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from gantk.errors import GantkError

if TYPE_CHECKING:
    from gantk.runtime.cuda import Cuda

_REPEATABLE = ("Kernel", "Memset", "Empty", "WaitEvent", "EventRecord", "MemAlloc", "MemFree")


def refuse_stale_copies(cuda: Cuda, graph: Any, own: Collection[int]) -> None:
    """Refuse a graph that does more than compute on the GPU and copy what is kept for it.

    A copy from main memory is captured with its address, and reads at every launch what is there by then. A library
    that computes sizes on the CPU and copies them to the GPU has given that memory back; so has ONNX Runtime before
    1.31.1 that of Concat and Split (onnxruntime#32121).

    Args:
        cuda: Calls CUDA.
        graph: What a capture ended with.
        own: Addresses in main memory of which the graph may copy.

    Raises:
        GantkError: It does.
    """
    kinds = cuda.enum("cudaGraphNodeType")
    fine = {getattr(kinds, f"cudaGraphNodeType{name}") for name in _REPEATABLE}
    _, count = cuda.call("cudaGraphGetNodes", graph)
    nodes, _ = cuda.call("cudaGraphGetNodes", graph, count) if count else ([], 0)
    for node in nodes:
        kind = cuda.call("cudaGraphNodeGetType", node)
        if kind == kinds.cudaGraphNodeTypeMemcpy:
            source = cuda.call("cudaGraphMemcpyNodeGetParams", node).srcPtr.ptr
            if source not in own and not cuda.is_on_gpu(source):
                raise GantkError("the graph copies from main memory that is not kept for it")
        elif kind not in fine:
            raise GantkError(f"the graph does more than compute: {kind}")

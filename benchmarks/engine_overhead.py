# SPDX-License-Identifier: Apache-2.0
"""What a runner costs over a TensorRT product's own loop, on a GPU. Prints JSON.

    python benchmarks/engine_overhead.py X.gantk [--backend tensorrt|tensorrt-rtx] [--calls 3000]

The bundle has an engine for the GPU here, which runs what it is tuned for. The product's loop is what a competent user
writes: a context of its own, inputs and outputs in GPU memory, a run, the next one captured into a CUDA graph, and then
its launch and the wait for it. Against it is a bound run of ours on the same arrays; both in turns, one call each. The
goal is at most 2 % more.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import gantk
from gantk.bundle import Bundle
from gantk.runtime import cuda
from gantk.runtime.arrays import random_feeds
from gantk.runtime.backends.device import DeviceArray
from gantk.runtime.engines import EngineFile
from gantk.runtime.product_log import log
from gantk.runtime.products import PRODUCTS, load
from overhead import compared

LIMIT = 0.02


class OwnLoop:
    """A product's engine, called by nothing but the product and CUDA.

    Args:
        trt: The product's module.
        file: The engine.
        arrays: Its inputs and outputs in GPU memory.
    """

    def __init__(self, trt: ModuleType, file: EngineFile, arrays: Mapping[str, DeviceArray]) -> None:
        self._api = cuda.bindings()
        given = trt.ExecutionContextAllocationStrategy.USER_MANAGED  # TensorRT for RTX takes nothing else.
        with log(trt).listening():
            self._engine = trt.Runtime(log(trt).logger).deserialize_cuda_engine(file.data)
            self._context = self._engine and self._engine.create_execution_context(given)
            if self._context is None:
                raise SystemExit(f"the engine does not load: {log(trt).said()}")
        self._stream = self._cuda("cudaStreamCreateWithFlags", self._api.cudaStreamNonBlocking)
        for spec in file.inputs:
            self._context.set_input_shape(spec.name, arrays[spec.name].shape)
        for name, array in arrays.items():
            self._context.set_tensor_address(name, array.address)
        wanted = self._context.update_device_memory_size_for_shapes() or self._engine.device_memory_size_v2
        self._context.set_device_memory(int(self._cuda("cudaMalloc", max(wanted, 1))), max(wanted, 1))
        self._run()
        self._cuda("cudaStreamSynchronize", self._stream)
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._cuda("cudaStreamBeginCapture", self._stream, mode)
        self._run()
        graph = self._cuda("cudaStreamEndCapture", self._stream)
        self._graph = self._cuda("cudaGraphInstantiate", graph, 0)

    def __call__(self) -> None:
        self._api.cudaGraphLaunch(self._graph, self._stream)
        self._api.cudaStreamSynchronize(self._stream)

    def _run(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise SystemExit("the engine does not run")

    def _cuda(self, function: str, *arguments: Any) -> Any:
        status, *found = getattr(self._api, function)(*arguments)
        if status != self._api.cudaError_t.cudaSuccess:
            raise SystemExit(f"{function}: {status}")
        return found[0] if found else None


def measure(path: Path, backend: str, calls: int) -> dict[str, Any]:
    """The overhead of the engine that `gantk.open` chooses."""
    with gantk.open(path, backend) as opened:
        runner = cast(Any, opened)
        file: EngineFile = runner._file
        tuned = file.engine.profiles[0]
        sizes = {
            size: tuned[spec.name].opt[axis]
            for spec in runner.inputs
            for axis, size in enumerate(spec.shape)
            if isinstance(size, str)
        }
        feeds = random_feeds(runner.inputs, sizes)
        bound = runner.bind(feeds)
        loop = OwnLoop(load(PRODUCTS[backend]), file, {**bound.inputs, **bound.outputs})
        row = compared(loop, lambda: bound(stream=-1), calls)
        return {
            "backend": backend,
            "version": runner.version,
            "engine": file.engine.label,
            "graph": bound.is_graph,
            **row,
            "holds": row["overhead"] < LIMIT,
        }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--backend", choices=tuple(PRODUCTS))
    parser.add_argument("--calls", type=int, default=3000)
    arguments = parser.parse_args()
    held = dict.fromkeys(engine.backend for engine in Bundle.read(arguments.bundle).manifest.engines)
    rows = [
        measure(arguments.bundle, name, arguments.calls) for name in held if arguments.backend in (None, name)
    ]
    print(
        json.dumps({"benchmark": "an engine's runner against its product's own loop", "rows": rows}, indent=2)
    )


if __name__ == "__main__":
    main()

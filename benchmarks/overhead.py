# SPDX-License-Identifier: Apache-2.0
"""What a runner costs over calling the vendor's API directly, at batch 1. Prints JSON.

    python benchmarks/overhead.py X.gantk|X.onnx [--threads 2] [--calls 3000] [--device cuda]

Both call the same session in turns, one call each, so that drift and neighbours meet both alike. The direct
call is what a competent user writes: ONNX Runtime's `session.run`, OpenVINO's `request.infer` with shared
inputs; each yields an array of its own. On a GPU (`--device cuda`) it is `session.run_with_iobinding` with the
vendor's own CUDA graph, against a bound run of ours: arrays stay where they are. `benchmarks/run.py` measures
it for its suite's network.

On a busy machine the difference is lost in the network's own jitter. So it is also measured on a network of
one node, where nothing hides it (`own_us`); `share` relates that to the real network's direct call.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from gantk.runtime.arrays import random_feeds
from gantk.runtime.backends.onnxruntime_session import PROVIDERS, session_options  # It turns telemetry off.
from gantk.runtime.model import Model, from_bytes, from_path
from gantk.runtime.operators import native_operators
from gantk.runtime.registry import BACKENDS, open_model
from gantk.runtime.registry import status as status_of
from gantk.runtime.runner import Array, Runner

LIMIT = 0.03
MEMORY = "cuda"


def direct_call(runner: Runner, feeds: dict[str, Array]) -> Callable[[], object]:
    """The vendor's own call on what the runner holds."""
    held: Any = runner
    names = [spec.name for spec in runner.outputs]
    if runner.backend == "onnxruntime":
        session = held._session
        return lambda: session.run(names, feeds)
    request = held._compiled.create_infer_request()
    return lambda: request.infer(feeds, share_inputs=True)[names[0]]


def one_node() -> bytes:
    """tanh of 100 values."""
    from onnx import TensorProto, helper

    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 100]) for name in ("latent", "picture")
    ]
    graph = helper.make_graph(
        [helper.make_node("Tanh", ["latent"], ["picture"])], "tanh", values[:1], values[1:]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


def direct_cuda_call(
    model: Model, feeds: dict[str, Array], outputs: Mapping[str, Array], threads: int
) -> Callable[[], object]:
    """ONNX Runtime's fastest by itself, with the same operators: tensors bound to GPU memory, its own CUDA graph."""
    import onnxruntime

    from gantk.runtime.backends.onnxruntime_settings import operators_of, settings

    options = session_options(model, MEMORY, threads, native_operators(MEMORY))
    provider = (
        PROVIDERS["cuda"],
        {**settings(model.precision, operators_of(model)), "enable_cuda_graph": "1"},
    )
    session = onnxruntime.InferenceSession(model.data, options, providers=[provider])
    binding = bound_to_gpu(session, feeds, outputs)
    return lambda: session.run_with_iobinding(binding)


def bound_to_gpu(session: Any, feeds: Mapping[str, Array], outputs: Mapping[str, Array]) -> Any:
    """A binding of a session of ONNX Runtime to copies of arrays in GPU memory."""
    import onnxruntime

    binding = session.io_binding()
    for bind, arrays in ((binding.bind_ortvalue_input, feeds), (binding.bind_ortvalue_output, outputs)):
        for name, array in arrays.items():
            bind(name, onnxruntime.OrtValue.ortvalue_from_numpy(array, MEMORY, 0))
    return binding


def measure(model: Model, backend: str, threads: int, calls: int, device: str = "cpu") -> dict[str, Any]:
    with open_model(model, backend, device, threads) as runner:
        feeds, held = random_feeds(runner.inputs), cast(Any, runner)
        if device == "cuda":
            outputs = runner.run(feeds)
            bound = held.bind(feeds)
            # What is compared with does not wait for the caller's streams either.
            direct, ours = direct_cuda_call(model, feeds, outputs, threads), lambda: bound(stream=-1)
        else:
            direct, ours = direct_call(runner, feeds), lambda: runner.run(feeds)
        return {
            "backend": backend,
            "version": runner.version,
            "network": model.name,
            **compared(direct, ours, calls),
        }


def compared(direct: Callable[[], object], ours: Callable[[], object], calls: int) -> dict[str, Any]:
    """What the one call takes and the other, in turns, and how much more the second: in us, and its share."""
    contenders = [(0, direct), (1, ours)]
    times = np.empty((calls + calls // 10, 2))
    for turn in times:
        for place, call in contenders:
            start = time.perf_counter_ns()
            call()
            turn[place] = time.perf_counter_ns() - start
        contenders.reverse()  # Neither is always the one that follows the other.
    times = times[calls // 10 :] / 1e6
    medians = np.median(times, axis=0)
    # Bootstrap over blocks, since neighbouring calls resemble each other.
    blocks = times[: calls // 50 * 50].reshape(-1, 50, 2)
    picks = np.random.default_rng(0).integers(0, len(blocks), (1000, len(blocks)))
    ratios = [np.divide(*np.median(blocks[pick].reshape(-1, 2), axis=0)[::-1]) - 1 for pick in picks]
    return {
        "direct_p50_ms": float(medians[0]),
        "runner_p50_ms": float(medians[1]),
        "overhead_us": float(1e3 * (medians[1] - medians[0])),
        "overhead": float(medians[1] / medians[0] - 1),
        "overhead_ci95": [float(value) for value in np.percentile(ratios, [2.5, 97.5])],
        "calls": calls,
    }


def measure_all(path: Path, threads: int, calls: int = 3000, device: str = "cpu") -> list[dict[str, Any]]:
    """The overhead on a network, and on one of one node, for each backend of ONNX files that works on a device."""
    rows = []
    for status in map(status_of, BACKENDS):
        if device in status.devices:
            row = measure(
                from_path(path, backend=status.name, device=device), status.name, threads, calls, device
            )
            bare = measure(from_bytes(one_node()), status.name, 1, 2 * calls, device)
            share = bare["overhead_us"] / 1e3 / row["direct_p50_ms"]
            rows.append({**row, "own_us": bare["overhead_us"], "share": share, "holds": share < LIMIT})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    rows = measure_all(arguments.model, arguments.threads, arguments.calls, arguments.device)
    print(
        json.dumps(
            {"benchmark": "runner overhead at batch 1", "model": str(arguments.model), "rows": rows}, indent=2
        )
    )


if __name__ == "__main__":
    main()

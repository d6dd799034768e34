# SPDX-License-Identifier: Apache-2.0
"""What a runner costs over calling the vendor's API directly, at batch 1. Prints JSON.

    python benchmarks/overhead.py [--model X.gantk|X.onnx] [--threads 2] [--calls 3000]

Both call the same session in turns, one call each, so that drift and neighbours meet both alike. The direct
call is what a competent user writes: ONNX Runtime's `session.run`, OpenVINO's `request.infer` with shared
inputs; each yields an array of its own. Without --model a DCGAN-64 (width 64) with random weights is used.

On a busy machine the difference is lost in the network's own jitter. So it is also measured on a network of
one node, where nothing hides it; `share_of_direct` relates that to the real network's direct call.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import Model, from_bytes, from_path
from gantk.runtime.registry import available, open_model
from gantk.runtime.runner import Array, Runner

LIMIT = 0.03


def dcgan(width: int = 64, latent: int = 100) -> bytes:
    """A DCGAN-64 generator (arXiv 1511.06434) with folded batch normalisation and random weights."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    channels = [latent, 8 * width, 4 * width, 2 * width, width, 3]
    axes = numpy_helper.from_array(np.array([2, 3], np.int64), "axes")
    nodes, weights, name = [helper.make_node("Unsqueeze", ["latent", "axes"], ["x0"])], [axes], "x0"
    for index, (inner, outer) in enumerate(itertools.pairwise(channels)):
        values = (rng.standard_normal((inner, outer, 4, 4)) / np.sqrt(4 * inner)).astype(np.float32)
        weights += [numpy_helper.from_array(values, f"w{index}")]
        weights += [numpy_helper.from_array(np.zeros(outer, np.float32), f"b{index}")]
        attributes: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1]} if index else {}
        inputs = [name, f"w{index}", f"b{index}"]
        nodes.append(helper.make_node("ConvTranspose", inputs, [f"c{index}"], **attributes))
        name = f"x{index + 1}" if index < 4 else "picture"
        nodes.append(helper.make_node("Relu" if index < 4 else "Tanh", [f"c{index}"], [name]))
    graph = helper.make_graph(
        nodes,
        "dcgan64",
        [helper.make_tensor_value_info("latent", TensorProto.FLOAT, ["N", latent])],
        [helper.make_tensor_value_info("picture", TensorProto.FLOAT, ["N", 3, 64, 64])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()


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


def measure(model: Model, backend: str, threads: int, calls: int) -> dict[str, Any]:
    with open_model(model, backend, "cpu", threads) as runner:
        feeds = random_feeds(runner.inputs)
        direct = direct_call(runner, feeds)
        times = np.empty((calls + calls // 10, 2))
        for turn in times:
            for place, call in enumerate((direct, lambda: runner.run(feeds))):
                start = time.perf_counter_ns()
                call()
                turn[place] = time.perf_counter_ns() - start
        times = times[calls // 10 :] / 1e6
    medians = np.median(times, axis=0)
    # Bootstrap over blocks, since neighbouring calls resemble each other.
    blocks = times[: calls // 50 * 50].reshape(-1, 50, 2)
    picks = np.random.default_rng(0).integers(0, len(blocks), (1000, len(blocks)))
    ratios = [np.divide(*np.median(blocks[pick].reshape(-1, 2), axis=0)[::-1]) - 1 for pick in picks]
    return {
        "backend": backend,
        "version": runner.version,
        "network": model.name,
        "direct_p50_ms": float(medians[0]),
        "runner_p50_ms": float(medians[1]),
        "overhead_us": float(1e3 * (medians[1] - medians[0])),
        "overhead": float(medians[1] / medians[0] - 1),
        "overhead_ci95": [float(value) for value in np.percentile(ratios, [2.5, 97.5])],
        "calls": calls,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--calls", type=int, default=3000)
    arguments = parser.parse_args()
    model = from_path(arguments.model) if arguments.model else from_bytes(dcgan())
    rows = []
    for status in available():
        if "cpu" in status.devices:
            row = measure(model, status.name, arguments.threads, arguments.calls)
            bare = measure(from_bytes(one_node()), status.name, 1, 2 * arguments.calls)
            share = bare["overhead_us"] / 1e3 / row["direct_p50_ms"]
            rows += [{**row, "share_of_direct": share, "holds": share < LIMIT}, bare]
    about = {
        "benchmark": "runner overhead at batch 1",
        "model": str(arguments.model or "dcgan64, random weights"),
    }
    print(
        json.dumps(
            {**about, "threads": arguments.threads, "machine": platform.processor(), "rows": rows}, indent=2
        )
    )


if __name__ == "__main__":
    main()

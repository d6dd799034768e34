# SPDX-License-Identifier: Apache-2.0
"""The native operators against the portable bodies in ONNX Runtime, on a CPU. Writes results/native_operators.json.

    python benchmarks/native_operators.py --library LIBGANTK_ONNXRUNTIME.SO [--step STEP.gantk]

The two of a row are called in turns, so that a machine that grows slower hurts both alike, and threads of ONNX Runtime
sleep between calls, so that neither takes cores from the other; ratios above 1 are the native operators' gain. With
--step also a whole step of style transfer, exported by `gantk export --gatys`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.onnx import OPSET

HERE = Path(__file__).resolve().parent
# Channels, and how many times smaller than the picture, of the layers that style is taken from.
LAYERS = ((64, 1), (128, 2), (256, 4), (512, 8), (512, 16))
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
Pair = tuple[Callable[[], Any], Callable[[], Any]]


def pair(model: bytes, feeds: dict[str, Any], library: Path, threads: int) -> Pair:
    """A call of the portable bodies and one of the native operators."""

    def session(native: bool) -> Callable[[], Any]:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if native:
            options.register_custom_ops_library(str(library))
        made = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        return lambda: made.run(None, feeds)

    return session(False), session(True)


def node(
    function: str, dtype: str, shapes: dict[str, tuple[int, ...]], outputs: list[str], **options: Any
) -> bytes:
    """A file of one node."""
    kinds = {name: TensorProto.FLOAT if name == "gradient_in" else TYPES[dtype] for name in shapes}
    graph = helper.make_graph(
        [helper.make_node(function, list(shapes), outputs, domain=DOMAIN, **options)],
        function,
        [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, 0, None) for name in outputs],
    )
    for value in graph.output:
        value.ClearField("type")
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    proto = helper.make_model(graph, functions=bodies(OPSET), opset_imports=opsets, ir_version=10)
    data: bytes = onnx.shape_inference.infer_shapes(proto).SerializeToString()
    return data


def contenders(size: int, dtype: str) -> dict[str, tuple[bytes, dict[str, Any]]]:
    """By row, a file and what goes in."""
    rng, found = np.random.default_rng(0), {}
    for channels, shrunk in LAYERS:
        side = size // shrunk
        features = rng.random((1, channels, side, side), np.float32).astype(dtype)
        slope = rng.random((1, channels, channels), np.float32)
        shape = features.shape
        found[f"Gram matrix, {channels} x {side}^2"] = (
            node("GramMatrix", dtype, {"features": shape}, ["gram"]), {"features": features}
        )  # fmt: skip
        found[f"its gradient, {channels} x {side}^2"] = (
            node("GramMatrixGrad", dtype, {"gradient_in": slope.shape, "features": shape}, ["slope"]),
            {"gradient_in": slope, "features": features},
        )
    picture = rng.random((1, 3, size, size), np.float32).astype(dtype)
    found["total variation l1 with gradient"] = (
        node("TotalVariation", dtype, {"pictures": picture.shape}, ["value", "gradient"], kind="l1"),
        {"pictures": picture},
    )
    return found


def step(bundle: Path, size: int) -> tuple[bytes, dict[str, Any]]:
    """The graph of a whole step with its default layers, and random pictures, weights and targets."""
    from gantk.runtime.model import from_path

    model, rng = from_path(bundle), np.random.default_rng(0)
    sizes = {
        "N": 1,
        "M": 1,
        "H": size,
        "W": size,
        "h": size // 8,
        "w": size // 8,
    }  # Content is taken at relu4_2.
    feeds = {}
    for spec in model.inputs:
        shape = tuple(sizes[axis] if isinstance(axis, str) else axis for axis in spec.shape)
        feeds[spec.name] = np.asarray(rng.random(shape), spec.dtype)
    return model.data, feeds


def measure(both: Pair, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    times: tuple[list[float], list[float]] = ([], [])
    for round_ in range(rounds + 1):
        for function, kept in zip(both, times, strict=True):
            began_s = clock()
            function()
            if round_ > 0:  # The first warms up.
                kept.append((clock() - began_s) * 1000)
    body_ms, native_ms = map(statistics.median, times)
    ratio = statistics.median(a / b for a, b in zip(*times, strict=True))
    return {"body_ms": round(body_ms, 3), "native_ms": round(native_ms, 3), "ratio": round(ratio, 3)}


def difference(both: Pair) -> float:
    """The largest difference of the two's outputs, of the largest value."""
    found = [
        float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-30))
        for a, b in zip(both[0](), both[1](), strict=True)
    ]
    return max(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--step", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--dtypes", nargs="+", default=list(TYPES))
    parser.add_argument(
        "--cpu-time", action="store_true", help="measure the process's own time, on a machine that others use"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / "native_operators.json")
    options = parser.parse_args()
    clock = time.process_time if options.cpu_time else time.perf_counter
    rows = []
    for size in options.sizes:
        cases = [
            (dtype, name, case) for dtype in options.dtypes for name, case in contenders(size, dtype).items()
        ]
        if options.step is not None:
            cases.append(("float32", "step of style transfer", step(options.step, size)))
        for dtype, name, (model, feeds) in cases:
            both = pair(model, feeds, options.library, options.threads)
            off = difference(both)
            rows.append(
                {
                    "size": size,
                    "dtype": dtype,
                    "name": name,
                    **measure(both, options.rounds, clock),
                    "difference": off,
                }
            )
            print(
                "{size:5} px {dtype:8} {name:34} body {body_ms:9.2f} ms  native {native_ms:9.2f} ms  {ratio:5.2f}x  "
                "{difference:.1e}".format(**rows[-1])
            )
    document = {
        "schema": 1,
        "benchmark": "native_operators",
        "machine": {"platform": platform.platform(), "threads": options.threads, "load": os.getloadavg()[0]},
        "clock": "cpu" if options.cpu_time else "wall",
        "onnxruntime": onnxruntime.__version__,
        "rows": rows,
    }
    options.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

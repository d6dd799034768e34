# SPDX-License-Identifier: Apache-2.0
"""The native operators against the portable bodies in ONNX Runtime, on a CPU. Writes results/native_operators.json.

    python benchmarks/native_operators.py --library LIBGANTK_ONNXRUNTIME.SO [--step STEP.gantk] [--vgg FILE]

Those of a row are called in turns, so that a machine that grows slower hurts all alike, and threads of ONNX Runtime
sleep between calls, so that none takes cores from another; ratios above 1 are the native operators' gain. With --step
also a whole step of style transfer, exported by `gantk export --gatys`, and the memory at its peak; with --vgg, the
weights that it was exported from, also PyTorch's eager mode with channels last, which is its best.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.runtime.backends.onnxruntime_session import PROVIDERS  # It turns telemetry off.
from gantk.runtime.registry import status

HERE = Path(__file__).resolve().parent
# Channels, and how many times smaller than the picture, of the layers that style is taken from.
LAYERS = ((64, 1), (128, 2), (256, 4), (512, 8), (512, 16))
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
STEP = "step of style transfer"
# Channels before and after, and how many times smaller than the picture, of the convolutions of a step up to relu5_1,
# forward and backward.
CONVOLUTIONS = (
    (64, 64, 1), (64, 128, 2), (128, 64, 2), (128, 128, 2), (128, 256, 4), (256, 128, 4), (256, 256, 4),
    (256, 512, 8), (512, 256, 8), (512, 512, 8), (512, 512, 16),
)  # fmt: skip
Calls = dict[str, Callable[[], Any]]


def session(model: bytes, feeds: dict[str, Any], library: Path | None, threads: int) -> Callable[[], Any]:
    """A call of a file, with the portable bodies where there is no library."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # As gantk's runner.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if library is not None:
        options.register_custom_ops_library(str(library))
    made = onnxruntime.InferenceSession(model, options, providers=[PROVIDERS["cpu"]])
    return lambda: made.run(None, feeds)


def pair(model: bytes, feeds: dict[str, Any], library: Path, threads: int) -> Calls:
    """A call of the portable bodies and one of the native operators."""
    return {
        "body": session(model, feeds, None, threads),
        "native": session(model, feeds, library, threads),
    }


def node(
    function: str,
    dtype: str,
    shapes: dict[str, tuple[int, ...]],
    outputs: list[str],
    stored: Mapping[str, Any] | None = None,
    **options: Any,
) -> bytes:
    """A file of one node, whose last inputs may be stored."""
    kinds = {name: TensorProto.FLOAT if name == "gradient_in" else TYPES[dtype] for name in shapes}
    stored = stored or {}
    graph = helper.make_graph(
        [helper.make_node(function, [*shapes, *stored], outputs, domain=DOMAIN, **options)],
        function,
        [helper.make_tensor_value_info(name, kinds[name], shape) for name, shape in shapes.items()],
        [helper.make_tensor_value_info(name, 0, None) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
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
    if dtype == "float32":
        found |= dict(convolution(rng, size, *layer) for layer in CONVOLUTIONS)
    picture = rng.random((1, 3, size, size), np.float32).astype(dtype)
    found["total variation l1 with gradient"] = (
        node("TotalVariation", dtype, {"pictures": picture.shape}, ["value", "gradient"], kind="l1"),
        {"pictures": picture},
    )
    return found


def convolution(
    rng: np.random.Generator, size: int, before: int, after: int, shrunk: int
) -> tuple[str, tuple[bytes, dict[str, Any]]]:
    """A row of `contenders`: ONNX Runtime's Conv with its ReLU against Winograd's."""
    side = size // shrunk
    features = rng.standard_normal((1, before, side, side), np.float32)
    weights = rng.standard_normal((after, before, 3, 3), np.float32) * np.float32((2 / (9 * before)) ** 0.5)
    stored = {"weights": weights, "bias": np.zeros(after, np.float32)}
    data = node("Convolution3x3Relu", "float32", {"features": features.shape}, ["result"], stored)
    return f"convolution, {before} to {after} x {side}^2", (data, {"features": features})


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


def eager(vgg: Path, bundle: Path, feeds: dict[str, Any], threads: int) -> Callable[[], Any]:
    """A call of the same step in PyTorch."""
    from gantk.baselines.step import open_step
    from gantk.bundle import Bundle
    from gantk.export.gatys.chain import StepConfig

    about = Bundle.read(bundle).manifest.config
    config = {name: about[name] for name in StepConfig.__dataclass_fields__}
    return open_step(str(vgg), config, "channels_last", threads=threads).bind(feeds)


def peak(bundle: Path, size: int, library: Path | None, threads: int) -> int:
    """MiB of this process after two calls of a step."""
    call = session(*step(bundle, size), library, threads)
    call()
    call()
    # getrusage would also count the process that this one was forked from.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) // 1024


def peaks(bundle: Path, size: int, library: Path, threads: int) -> dict[str, int]:
    """Of a process of its own for each."""
    found = {}
    for name, used in (("body", None), ("native", library)):
        with get_context("spawn").Pool(1) as pool:
            found[f"{name}_peak_mib"] = pool.apply(peak, (bundle, size, used, threads))
    return found


def measure(calls: Calls, rounds: int, clock: Callable[[], float]) -> dict[str, float]:
    """Medians by contender, and medians of each round's ratios to the native operators."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for round_ in range(rounds + 1):
        for name, function in calls.items():
            began_s = clock()
            function()
            if round_ > 0:  # The first warms up.
                times[name].append((clock() - began_s) * 1000)
    row = {f"{name}_ms": round(statistics.median(kept), 3) for name, kept in times.items()}
    for name, label in (("body", "ratio"), ("torch", "torch_ratio")):
        if name in times:
            pairs = zip(times[name], times["native"], strict=True)
            row[label] = round(statistics.median(a / b for a, b in pairs), 3)
    return row


def difference(calls: Calls) -> float:
    """The largest difference of the two's outputs, of the largest value."""
    found = [
        float(np.abs(a.astype(np.float64) - b).max() / max(np.abs(a).max(), 1e-30))
        for a, b in zip(calls["body"](), calls["native"](), strict=True)
    ]
    return max(found)


def text_of(row: dict[str, Any]) -> str:
    text = (
        "{size:5} px {dtype:8} {name:34} body {body_ms:9.2f} ms  native {native_ms:9.2f} ms  {ratio:5.2f}x  "
        "{difference:.1e}".format(**row)
    )
    if "torch_ms" in row:
        text += "  torch {torch_ms:.2f} ms  {torch_ratio:.2f}x".format(**row)
    if "body_peak_mib" in row:
        text += "  peaks {body_peak_mib} and {native_peak_mib} MiB".format(**row)
    return text


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--step", type=Path)
    parser.add_argument("--vgg", type=Path)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--step-rounds", type=int, default=9)
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
            cases.append(("float32", STEP, step(options.step, size)))
        for dtype, name, (model, feeds) in cases:
            calls, more = pair(model, feeds, options.library, options.threads), {}
            off = difference(calls)
            if name == STEP:
                more = peaks(options.step, size, options.library, options.threads)
                if options.vgg is not None:
                    calls["torch"] = eager(options.vgg, options.step, feeds, options.threads)
            measured = measure(calls, options.step_rounds if name == STEP else options.rounds, clock)
            rows.append({"size": size, "dtype": dtype, "name": name, **measured, **more, "difference": off})
            print(text_of(rows[-1]), flush=True)
    document = {
        "schema": 1,
        "benchmark": "native_operators",
        "machine": {"platform": platform.platform(), "threads": options.threads, "load": os.getloadavg()[0]},
        "clock": "cpu" if options.cpu_time else "wall",
        "onnxruntime": status("onnxruntime").version,
        "rows": rows,
    }
    options.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The native operators that take little more than a pass over memory, against ONNX Runtime's own and a copy.

    python benchmarks/passes.py --library LIBGANTK_ONNXRUNTIME.SO > benchmarks/results/passes.json

Each is a file of one node with channels last; ONNX Runtime's own are what exporters write for the same, in float32 and
in the layout that it wants, layouts not changed on the way. The copy is of as many bytes as are read and written. All
of a row are called in turns, on threads that sleep between calls.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnxruntime
from onnx import NodeProto, TensorProto, helper, numpy_helper

from gantk.bench import machine
from gantk.export.functions import DOMAIN, VERSION
from gantk.export.opset import BF16_OPSET
from gantk.runtime.backends.onnxruntime_session import PROVIDERS  # It turns telemetry off.

TYPES: dict[str, tuple[Any, int]] = {
    "float32": (np.float32, TensorProto.FLOAT),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
}
SHAPES = ((1, 256, 256, 64), (1, 64, 64, 256))
GROUPS, ROUNDS = 32, 60
Weights = dict[str, np.ndarray[Any, Any]]


def native(name: str, inputs: Sequence[str], **attributes: Any) -> list[NodeProto]:
    return [helper.make_node(name, ["x", *inputs], ["y"], domain=DOMAIN, **attributes)]


def chain(*steps: tuple[Any, ...]) -> list[NodeProto]:
    """Nodes one after the other, each an operator, its other inputs, and attributes if it has any."""
    nodes, value = [], "x"
    for index, (kind, others, *how) in enumerate(steps):
        made = "y" if index == len(steps) - 1 else f"t{index}"
        nodes.append(helper.make_node(kind, [value, *others], [made], **(how[0] if how else {})))
        value = made
    return nodes


def silu(nodes: list[NodeProto]) -> list[NodeProto]:
    nodes[-1].output[0] = "before"
    sigmoid = helper.make_node("Sigmoid", ["before"], ["sigmoid"])
    return [*nodes, sigmoid, helper.make_node("Mul", ["before", "sigmoid"], ["y"])]


def cases(shape: Sequence[int]) -> dict[str, tuple[list[NodeProto], list[NodeProto], bool, Weights]]:
    """By name the native node, ONNX Runtime's, whether those have channels first, and all weights."""
    count, height, width, channels = shape
    rng = np.random.default_rng(0)
    vector = lambda *sizes: rng.uniform(0.5, 1.5, sizes).astype(np.float32)  # noqa: E731
    scale, offset = vector(channels), vector(channels)
    known: Weights = {
        "factors": scale[None], "offsets": offset[None], "scale": scale, "offset": offset, "slopes": 0.2 * scale,
        "noise": vector(1, height, width, 1), "ones": np.ones(GROUPS, np.float32),
        "zeros": np.zeros(GROUPS, np.float32), "groups": np.array([0, GROUPS, -1]),
        "pictures": np.array([count, channels, height, width]), "planes": scale[:, None, None],
        "shifts": offset[:, None, None], "kernels": vector(channels, 1, 4, 4), "least": np.array(-1, np.float32),
        "most": np.array(1, np.float32),
    }  # fmt: skip
    group_norm = chain(
        ("Reshape", ["groups"]), ("InstanceNormalization", ["ones", "zeros"]), ("Reshape", ["pictures"]),
        ("Mul", ["planes"]), ("Add", ["shifts"]),
    )  # fmt: skip
    parts = helper.make_node("Split", ["x"], ["a", "b"], axis=3, num_outputs=2)
    gate = [parts, helper.make_node("Mul", ["a", "b"], ["y"])]
    sigmoid = helper.make_node("Sigmoid", ["b"], ["sigmoid"])
    glu = [parts, sigmoid, helper.make_node("Mul", ["a", "sigmoid"], ["y"])]
    found = {
        "NhwcAffineSumPRelu, noise": (
            native("NhwcAffineSumPRelu", ["factors", "offsets", "noise", "slopes"]),
            chain(("Mul", ["scale"]), ("Add", ["noise"]), ("Add", ["offset"]), ("LeakyRelu", [], {"alpha": 0.2})),
            False,
        ),
        "NhwcClip": (native("NhwcClip", [], low=-1.0, high=1.0), chain(("Clip", ["least", "most"])), False),
        "NhwcGroupNormSilu": (
            native("NhwcGroupNormSilu", ["scale", "offset"], groups=GROUPS), silu(group_norm), True,
        ),
        "NhwcLayerNorm": (
            native("NhwcLayerNorm", ["scale", "offset"]),
            chain(("LayerNormalization", ["scale", "offset"], {"axis": -1})), False,
        ),
        "NhwcGate": (native("NhwcGate", []), gate, False),
        "NhwcGlu": (native("NhwcGlu", []), glu, False),
        "NhwcDepthwiseConvolution, 4 x 4": (
            native("NhwcDepthwiseConvolution", ["kernels"], group=channels, pads=[1, 1, 2, 2]),
            chain(("Conv", ["kernels"], {"group": channels, "pads": [1, 1, 2, 2]})), True,
        ),
    }  # fmt: skip
    return {name: (*one, {key: known[key] for node in (*one[0], *one[1]) for key in node.input if key in known})
            for name, one in found.items()}  # fmt: skip


def call(
    nodes: list[NodeProto], weights: Weights, features: np.ndarray[Any, Any], dtype: str, options: Any
) -> tuple[Callable[[], Any], int]:
    """A call of a file of these nodes, and the bytes that it reads and writes of pictures."""
    kind, number = TYPES[dtype]
    used = {name for node in nodes for name in node.input}
    low = {"noise", "kernels"}  # The others are float32 in every file.
    stored = [
        helper.make_tensor(name, number, array.shape, array.astype(kind).tobytes(), raw=True)
        if name in low
        else numpy_helper.from_array(array, name)
        for name, array in weights.items()
        if name in used
    ]
    value = lambda name: helper.make_tensor_value_info(name, number, None)  # noqa: E731
    graph = helper.make_graph(nodes, "pass", [value("x")], [value("y")], stored)
    opsets = [helper.make_opsetid("", BF16_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, [PROVIDERS["cpu"]])
    given = features.astype(kind)
    raw = given if dtype == "float32" else given.view(np.uint16)
    binding = session.io_binding()
    binding.bind_ortvalue_input("x", onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, number))
    binding.bind_output("y")
    session.run_with_iobinding(binding)
    made = int(np.prod(binding.get_outputs()[0].shape())) * given.itemsize
    return lambda: session.run_with_iobinding(binding), given.nbytes + made


def copy_of(total: int, threads: int, pool: ThreadPoolExecutor) -> Callable[[], Any]:
    """A copy by which so many bytes are read and written."""
    source, target = np.ones(total // 2, np.uint8), np.zeros(total // 2, np.uint8)
    parts = [
        (a, b) for a, b in zip(np.array_split(target, threads), np.array_split(source, threads), strict=True)
    ]
    return lambda: list(pool.map(lambda part: np.copyto(*part), parts))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.register_custom_ops_library(str(arguments.library))
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(arguments.threads) as pool:
        for shape in SHAPES:
            features = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
            for name, (ours, theirs, first, weights) in cases(shape).items():
                planes = np.ascontiguousarray(features.transpose(0, 3, 1, 2)) if first else features
                calls = {"onnxruntime": call(theirs, weights, planes, "float32", options)[0]}
                for dtype in TYPES:
                    calls[dtype], total = call(ours, weights, features, dtype, options)
                    calls[f"copy {dtype}"] = copy_of(total, arguments.threads, pool)
                times: dict[str, list[float]] = {key: [] for key in calls}
                for _ in range(ROUNDS):
                    for key, one in calls.items():
                        begin = time.perf_counter()
                        one()
                        times[key].append(1e3 * (time.perf_counter() - begin))
                row = {key: round(statistics.median(each[5:]), 4) for key, each in times.items()}
                rows.append({"name": name, "shape": list(shape), "ms": row})
                print(name, shape, row, file=sys.stderr)
    document = {
        "benchmark": "passes",
        "machine": {**machine.describe(), "threads": arguments.threads},
        "onnxruntime": onnxruntime.__version__,
        "commit": machine.commit(),
        "rows": rows,
    }
    print(json.dumps(document, indent=1))


def section(document: dict[str, Any]) -> str:
    """The table: an operator and a shape a line."""
    columns = ("float32", "a copy", "ONNX Runtime", "bfloat16", "a copy")
    lines = [f"| ms | {' | '.join(columns)} |", f"| :--- |{' ---: |' * len(columns)}"]
    for row in document["rows"]:
        keys = ("float32", "copy float32", "onnxruntime", "bfloat16", "copy bfloat16")
        cells = [f"{row['ms'][key]:.3g}" for key in keys]
        lines.append(f"| {row['name']}: {' x '.join(map(str, row['shape']))} | {' | '.join(cells)} |")
    where = f"{document['machine']['cpu']}, {document['machine']['threads']} threads"
    made_of = f"onnxruntime {document['onnxruntime']}; commit {document['commit']}"
    return "\n".join([*lines, "", f"- {where}; {made_of}.", ""])


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The native convolutions with channels last, layer by layer. Writes results/convolutions.json.

    python benchmarks/convolutions.py --library LIBGANTK_ONNXRUNTIME.SO

The layers of a DCGAN for 64 pixels and of a style network at 512, in float32 and bfloat16, in ONNX Runtime, one after
the other, for threads of two sessions would wait for work on the same cores. Operations are counted as a sum of
products has them, whatever the method: Winograd's does with fewer, and may so pass the peak. The peak is what a 1 x 1
convolution of many channels reaches here, nearly all of whose time are products.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper

from gantk.bench.machine import describe
from gantk.export.functions import DOMAIN, VERSION
from gantk.export.opset import BF16_OPSET
from gantk.runtime.backends.onnxruntime_session import PROVIDERS  # It turns telemetry off.
from gantk.runtime.registry import status

HERE = Path(__file__).resolve().parent
TYPES: dict[str, tuple[Any, int]] = {
    "float32": (np.float32, TensorProto.FLOAT),
    "bfloat16": (ml_dtypes.bfloat16, TensorProto.BFLOAT16),
}
PEAK = "peak"


@dataclass(frozen=True)
class Layer:
    """One convolution.

    Args:
        name: In tables.
        features: N x H x W x C.
        outputs: Channels of the result.
        kernel: Its side.
        stride: Of one that is not transposed.
        pads: Of one that is transposed; 0 if it is not.
    """

    name: str
    features: tuple[int, int, int, int]
    outputs: int
    kernel: int = 3
    stride: int = 1
    pads: int = 0

    def operations(self) -> int:
        """Multiplications and additions of a sum of products."""
        count, height, width, inputs = self.features
        if self.pads:
            cropped = 2 if self.pads == 3 else 0
            pixels, taps = 4 * (height - cropped) * (width - cropped), 4
        else:
            pixels = ((height - self.kernel) // self.stride + 1) * ((width - self.kernel) // self.stride + 1)
            taps = self.kernel**2
        return 2 * count * pixels * self.outputs * inputs * taps


def layers() -> list[Layer]:
    found = [
        Layer(PEAK, (1, 64, 64, 512), 512, 1),
        Layer("style 9x9, 3 to 32", (1, 520, 520, 3), 32, 9),
        Layer("style 3x3, stride 2, 32 to 64", (1, 514, 514, 32), 64, stride=2),
        Layer("style 3x3, stride 2, 64 to 128", (1, 258, 258, 64), 128, stride=2),
        Layer("style 3x3, 128 to 128", (1, 130, 130, 128), 128),
        Layer("style doubling, 128 to 64", (1, 130, 130, 128), 64, 4, pads=3),
        Layer("style doubling, 64 to 32", (1, 258, 258, 64), 32, 4, pads=3),
        Layer("style 9x9, 32 to 3", (1, 520, 520, 32), 3, 9),
    ]
    for batch in (1, 16):
        found.append(Layer(f"DCGAN dense, batch {batch}", (1, 1, batch, 100), 8192, 1))
        for size, inputs in ((4, 512), (8, 256), (16, 128), (32, 64)):
            outputs = inputs // 2 if size < 32 else 3
            name = f"DCGAN {size} to {2 * size} pixels, {inputs} to {outputs}, batch {batch}"
            found.append(Layer(name, (batch, size, size, inputs), outputs, 4, pads=1))
    return found


def prepare(layer: Layer, dtype: str, library: Path, threads: int) -> Callable[[], Any]:
    """A call of a file of one node."""
    import onnxruntime

    kind, number = TYPES[dtype]
    rng = np.random.default_rng(0)
    inputs = layer.features[3]
    if layer.pads:
        shape: tuple[int, ...] = (inputs, layer.outputs, 4, 4)
        function, attributes = "NhwcTransposedConvolution4x4", {"pads": [layer.pads] * 4}
    else:
        shape = (layer.outputs, inputs, layer.kernel, layer.kernel)
        function, attributes = "NhwcConvolution", {"strides": [layer.stride] * 2}
    weights = rng.standard_normal(shape).astype(kind)
    node = helper.make_node(function, ["features", "weights"], ["result"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        layer.name,
        [helper.make_tensor_value_info("features", number, None)],
        [helper.make_tensor_value_info("result", number, None)],
        [helper.make_tensor("weights", number, shape, weights.tobytes(), raw=True)],
    )
    opsets = [helper.make_opsetid("", BF16_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, [PROVIDERS["cpu"]])
    features = rng.standard_normal(layer.features).astype(kind)
    raw = features if dtype == "float32" else features.view(np.uint16)
    binding = session.io_binding()
    binding.bind_ortvalue_input(
        "features", onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(raw, number)
    )
    binding.bind_output("result")
    return lambda: session.run_with_iobinding(binding)


def measure(call: Callable[[], Any], seconds: float) -> float:
    """The median of calls in ms."""
    call()  # Packs the weights.
    times: list[float] = []
    end = time.perf_counter() + seconds
    while (begin := time.perf_counter()) < end:
        call()
        times.append((time.perf_counter() - begin) * 1e3)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=1, help="for a layer")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "convolutions.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for dtype in TYPES:
        peak = 0.0
        for layer in layers():
            ms = measure(prepare(layer, dtype, options.library, options.threads), options.seconds)
            rate = layer.operations() / ms * 1e-6
            peak = peak or rate
            rows.append(
                {
                    "dtype": dtype, "name": layer.name, "ms": round(ms, 4), "gflops": round(rate, 1),
                    "of_peak": round(rate / peak, 2),
                }
            )  # fmt: skip
            print(
                "{dtype:8} {name:52} {ms:8.3f} ms {gflops:7.0f} GFLOP/s {of_peak:5.2f}".format(**rows[-1]),
                flush=True,
            )
    document = {
        "schema": 1,
        "benchmark": "convolutions",
        "machine": {**describe(), "threads": options.threads, "load": os.getloadavg()[0]},
        "onnxruntime": status("onnxruntime").version,
        "rows": rows,
    }
    options.output.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()

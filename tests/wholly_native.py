# SPDX-License-Identifier: Apache-2.0
"""Networks turned into native operators with channels last, and a generator to turn."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper

from export_graphs import kinds
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.rewrites import rewrite
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model


def turned(graph: ir.Model) -> ir.Model:
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert not set(kinds(other)) & {"Conv", "ConvTranspose", "InstanceNormalization", "Pad", "Resize", "Gemm"}
    return other


def outputs(graph: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    with open_model(from_bytes(proto.SerializeToString()), "onnxruntime", threads=1) as runner:
        (made,) = runner.run(feeds).values()
    return made


def generator(
    size: int, width: int, channels: int, *, seed: int = 0, after: str = "Relu", **dense: float
) -> ir.Model:
    """A DCGAN's: a dense layer, and transposed convolutions that double the picture."""
    random = np.random.default_rng(seed)
    smallest = 7 if size == 28 else 4
    doublings = (size // smallest).bit_length() - 1
    widths = [width << step for step in reversed(range(doublings))]
    features, latent = widths[0] * smallest**2, 6
    weights = {
        "w": random.standard_normal((features, latent)).astype(np.float32),
        "b": random.standard_normal(features).astype(np.float32),
        "shape": np.array([-1, widths[0], smallest, smallest]),
    }
    dense = {"transB": 1, **dense}
    weights["w"] = weights["w"] if dense["transB"] else np.ascontiguousarray(weights["w"].T)
    nodes = [helper.make_node("Gemm", ["latent", "w", "b"], ["t"], name="project", **dense)]
    if after:
        nodes.append(helper.make_node(after, ["t"], ["u"], name="active"))
    nodes.append(helper.make_node("Reshape", ["u" if after else "t", "shape"], ["v0"], name="view"))
    for step, (before, made) in enumerate(zip(widths, [*widths[1:], channels], strict=True)):
        last = made == channels and step == doublings - 1
        weights[f"k{step}"] = random.standard_normal((before, made, 4, 4)).astype(np.float32) * 0.3
        inputs = [f"v{step}", f"k{step}"]
        if not last:
            weights[f"b{step}"] = random.standard_normal(made).astype(np.float32)
            inputs.append(f"b{step}")
        how = {"strides": [2, 2], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node("ConvTranspose", inputs, [f"s{step}"], name=f"enlarge.{step}", **how))
        end = ("Tanh", "picture") if last else ("Relu", f"v{step + 1}")
        nodes.append(helper.make_node(end[0], [f"s{step}"], [end[1]], name=f"after.{step}"))
    graph = helper.make_graph(
        nodes,
        "generator",
        [helper.make_tensor_value_info("latent", onnx.TensorProto.FLOAT, ["N", latent])],
        [helper.make_tensor_value_info("picture", onnx.TensorProto.FLOAT, ["N", channels, size, size])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(model, data_prop=True))

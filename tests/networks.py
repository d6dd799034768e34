# SPDX-License-Identifier: Apache-2.0
"""Tiny ONNX networks and bundles, made without torch."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from gantk.bundle import Bundle, Manifest, Parity, Variant, Writer
from gantk.runtime.probe import Probe
from gantk.tensors import TensorSpec

ROOT = Path(__file__).resolve().parents[1]
LATENT, SIDE = 4, 8
TYPES = {"fp32": TensorProto.FLOAT, "fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def specs(pictures: bool = False) -> tuple[TensorSpec, TensorSpec]:
    latent = TensorSpec("latent", "float32", ("N", LATENT), None, "NC")
    if pictures:
        return latent, TensorSpec("picture", "uint8", ("N", SIDE, SIDE, 3), (0.0, 255.0), "NHWC")
    return latent, TensorSpec("picture", "float32", ("N", 3, SIDE, SIDE), (-1.0, 1.0), "NCHW")


def generator(
    precision: str = "fp32", *, pictures: bool = False, seed: int = 0, metadata: bool = True
) -> bytes:
    """An ONNX file: latent [N, 4] -> transposed convolution -> tanh -> picture of 8 x 8."""
    rng, kind = np.random.default_rng(seed), TYPES[precision]
    weights = [
        _weight("w0", rng.standard_normal((LATENT, 16, 4, 4)) * 0.4, kind),
        _weight("w1", rng.standard_normal((16, 3, 4, 4)) * 0.2, kind),
        numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
    ]
    nodes = [
        helper.make_node("Cast", ["latent"], ["narrow"], to=kind),
        helper.make_node("Unsqueeze", ["narrow", "axes"], ["pixels"]),
        helper.make_node("ConvTranspose", ["pixels", "w0"], ["h0"]),
        helper.make_node("Relu", ["h0"], ["h1"]),
        helper.make_node("ConvTranspose", ["h1", "w1"], ["h2"], strides=[2, 2], pads=[1, 1, 1, 1]),
        helper.make_node("Tanh", ["h2"], ["h3"]),
        helper.make_node("Cast", ["h3"], ["h4" if pictures else "picture"], to=TensorProto.FLOAT),
    ]
    if pictures:
        weights += [numpy_helper.from_array(np.float32(127.5), "half")]
        nodes += [
            helper.make_node("Mul", ["h4", "half"], ["h5"]),
            helper.make_node("Add", ["h5", "half"], ["h6"]),
            helper.make_node("Round", ["h6"], ["h7"]),
            helper.make_node("Transpose", ["h7"], ["h8"], perm=[0, 2, 3, 1]),
            helper.make_node("Cast", ["h8"], ["picture"], to=TensorProto.UINT8),
        ]
    latent, picture = specs(pictures)
    graph = helper.make_graph(nodes, "generator", [_value(latent)], [_value(picture)], weights)
    facts = {
        "gantk.schema": "1",
        "gantk.model": {"family": "dcgan", "name": "tiny", "config": {"size": SIDE}},
        "gantk.inputs": [latent.to_json()],
        "gantk.outputs": [picture.to_json()],
        "gantk.form": '"plain"',
    }
    return model_bytes(graph, facts if metadata else {})


def model_bytes(graph: onnx.GraphProto, facts: Mapping[str, Any] | None = None) -> bytes:
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    for key, value in (facts or {}).items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.append(onnx.StringStringEntryProto(key=key, value=text))
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def simple(
    op: str,
    inputs: Sequence[TensorSpec],
    output: TensorSpec,
    weights: Mapping[str, Any] | None = None,
    **attributes: Any,
) -> bytes:
    """A network of one node, whose inputs are `inputs` and then `weights`."""
    stored = [numpy_helper.from_array(np.asarray(value), name) for name, value in (weights or {}).items()]
    node = helper.make_node(
        op, [*(spec.name for spec in inputs), *(weights or {})], [output.name], **attributes
    )
    return model_bytes(
        helper.make_graph([node], op, [_value(spec) for spec in inputs], [_value(output)], stored)
    )


def rounded_to_fp8(x: TensorSpec, y: TensorSpec) -> bytes:
    """A network that sets what is negative to 0 and rounds the rest to fp8."""
    stored = [
        numpy_helper.from_array(np.float32(0.25), "scale"),
        helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, (), [0.0]),
    ]
    nodes = [
        helper.make_node("Relu", [x.name], ["positive"]),
        helper.make_node("QuantizeLinear", ["positive", "scale", "zero"], ["rounded"]),
        helper.make_node("DequantizeLinear", ["rounded", "scale", "zero"], [y.name]),
    ]
    return model_bytes(helper.make_graph(nodes, "fp8", [_value(x)], [_value(y)], stored))


def parity(backend: str, *, passed: bool = True) -> Parity:
    figures = (1e-6, 120.0, 1.0) if passed else (1.9, 7.5, 0.1)
    reason = None if passed else "7.5 dB PSNR, at least 80 dB wanted"
    return Parity(backend, "1", "cpu", "fp32", "torch float32", *figures, 8, (1, 7), passed, reason)


def bundle(
    root: Path,
    files: Mapping[tuple[str, str], bytes] | None = None,
    *,
    parities: Mapping[tuple[str, str], Sequence[Parity]] | None = None,
    fastest_on: Mapping[tuple[str, str], Sequence[str]] | None = None,
    force: bool = False,
) -> Bundle:
    """A bundle of the given (precision, form) files, by default one of fp32; its weights are none."""
    files = files or {("fp32", "plain"): generator()}
    latent, picture = specs()
    with Writer(root, force=force) as writer:
        variants = tuple(
            Variant(
                writer.add(f"model.{precision}.{form}.onnx", data),
                precision,
                form,
                20,
                tuple((parities or {}).get((precision, form), ())),
                tuple((fastest_on or {}).get((precision, form), ())),
            )
            for (precision, form), data in files.items()
        )
        judging = writer.add("probe.safetensors", probe())
        weights = writer.add("checkpoint/generator.safetensors", b"weights")
        config = {"size": SIDE, "latent_size": LATENT}
        return writer.commit(
            Manifest(
                "dcgan", "tiny", config, (latent,), (picture,), variants, judging, weights, {"gantk": "0.1.0"}
            )
        )


@cache
def probe() -> bytes:
    """The file of a probe of `generator`."""
    feeds = {"latent": latents(2)}
    (picture,) = ReferenceEvaluator(generator()).run(None, feeds)
    return Probe(feeds, {"picture": picture}).dumps()


def latents(count: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((count, LATENT)).astype(np.float32)


def _weight(name: str, values: Any, kind: int) -> onnx.TensorProto:
    values = np.asarray(values, np.float32)
    return numpy_helper.from_array(values.astype(helper.tensor_dtype_to_np_dtype(kind)), name)


def _value(spec: TensorSpec) -> onnx.ValueInfoProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype))
    return helper.make_tensor_value_info(spec.name, kind, list(spec.shape))

# SPDX-License-Identifier: Apache-2.0
"""How ONNX Runtime is told to run a file on a GPU, as the operators of the file want it."""

from __future__ import annotations

from gantk.runtime.model import Model

# What ONNX Runtime computes in both layouts; other operators of pictures are NCHW, with transposes between.
_BOTH_LAYOUTS = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool", "Gemm"})
_ONE_LAYOUT = frozenset({"InstanceNormalization", "Pad", "Resize", "DepthToSpace"})

# What a graph, which repeats itself, would make another network of: noise, and branches that depend on values.
_NEW_EVERY_TIME = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
    | {"If", "Loop", "Scan"}
)


def settings(precision: str, kinds: frozenset[str]) -> dict[str, str]:
    """The provider's settings that suit a file of a precision with some operators."""
    return {
        # Its default computes fp32 files with 10-bit mantissas; without, some convolutions of halves do without tensor
        # cores too, which made DCGAN-64 at batch 64 2.3 times slower on an H100 (benchmarks/README.md).
        "use_tf32": str(int(precision in ("fp16", "bf16"))),
        # About as fast there as what it finds by trying all, which takes it long; its default has slow fallbacks.
        "cudnn_conv_algo_search": "HEURISTIC",
        # Where convolutions follow each other without operators between that want channels first. A style network with
        # gantk's normalisation would be such too, but on an H100 its runs then wait for the GPU somewhere in between,
        # which no graph can hold.
        "prefer_nhwc": str(int(bool(kinds & _BOTH_LAYOUTS and not kinds & _ONE_LAYOUT))),
    }


def operators_of(model: Model) -> frozenset[str]:
    """The types of a file's nodes, those of its functions included."""
    import onnx

    proto = (
        onnx.load(str(model.path), load_external_data=False)
        if model.external
        else onnx.load_from_string(model.data)
    )
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    return frozenset(node.op_type for node in nodes)


def repeats_itself(kinds: frozenset[str]) -> bool:
    """Whether a file of some operators does the same every time, as a CUDA graph does."""
    return not kinds & _NEW_EVERY_TIME

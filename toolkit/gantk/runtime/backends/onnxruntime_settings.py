# SPDX-License-Identifier: Apache-2.0
"""How ONNX Runtime is told to run a file on a GPU, as the operators of the file want it."""

from __future__ import annotations

from gantk.runtime.model import Model

# What ONNX Runtime computes in both layouts. Around other operators of pictures it puts transposes.
_BOTH_LAYOUTS = frozenset({"Conv", "ConvTranspose", "BatchNormalization", "MaxPool", "AveragePool", "Gemm"})
_ONE_LAYOUT = frozenset({"InstanceNormalization", "Pad", "Resize", "DepthToSpace"})

# What a CUDA graph, which repeats one run, would freeze: noise, and branches that depend on values.
_NEW_EVERY_TIME = frozenset(
    {"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Multinomial"}
    | {"If", "Loop", "Scan"}
)


def settings(precision: str, kinds: frozenset[str], *, channels_last: bool = False) -> dict[str, str]:
    """The provider's settings that suit a file.

    Args:
        precision: What it computes in.
        kinds: Its operators.
        channels_last: Whether it was measured faster so: see `gantk.export.rewrites.channels_last`.
    """
    return {
        # On by default, also for fp32 files, where it rounds to 10 bits of mantissa. Off, some fp16 convolutions lose
        # tensor cores too, which made DCGAN-64 at batch 64 2.3 times slower on an H100 (benchmarks/README.md).
        "use_tf32": str(int(precision in ("fp16", "bf16"))),
        # About as fast there as an exhaustive search, which takes long; the default has slow fallbacks.
        "cudnn_conv_algo_search": "HEURISTIC",
        "prefer_nhwc": str(int(channels_last or suits_channels_last(kinds))),
    }


def suits_channels_last(kinds: frozenset[str]) -> bool:
    """Whether convolutions follow each other without operators between that want channels first."""
    return bool(kinds & _BOTH_LAYOUTS) and not kinds & _ONE_LAYOUT


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

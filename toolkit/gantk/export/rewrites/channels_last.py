# SPDX-License-Identifier: Apache-2.0
"""The layout in which a backend is asked to compute; the graph stays as it is."""

from __future__ import annotations

import onnx_ir as ir

from gantk.runtime.backends.onnxruntime_settings import suits_channels_last

CHANNELS_LAST = "gantk.channels_last"
"""The key of a graph's metadata by which its file says so."""


def channels_last(graph: ir.Model) -> int:
    """Mark a graph to be computed channels last, where ONNX Runtime is not asked for that by its operators anyway.

    Convolutions of halves are, on tensor cores; whether the transposes around other operators cost more than those
    around convolutions is to be measured.

    Returns:
        1 where it was marked, else 0.
    """
    nodes = [*graph.graph, *(node for function in graph.functions.values() for node in function)]
    kinds = frozenset(node.op_type for node in nodes)
    if not kinds & {"Conv", "ConvTranspose"} or suits_channels_last(kinds):
        return 0
    graph.metadata_props[CHANNELS_LAST] = "true"
    return 1

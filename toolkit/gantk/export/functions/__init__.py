# SPDX-License-Identifier: Apache-2.0
"""The operators of the domain `gantk` as ONNX local functions.

A file holds them as nodes in the domain `gantk`, each with a portable body of standard operators: a backend that
has a kernel takes the node, any other the body. Bodies of sums over a picture take float16, bfloat16 and float32 and
compute in float32, so that they neither overflow nor lose their small terms.

What each computes is said where its body is: those that measure pictures in `losses`, convolutions and pooling in
`channels_first`, and what has channels last in `channels_last`.
"""

from __future__ import annotations

import onnx
import onnx.parser

from gantk.export.functions import channels_first, channels_last, losses
from gantk.export.functions.losses import KINDS as KINDS

DOMAIN = "gantk"
VERSION = 1


def bodies(opset: int, kind: str = "l1") -> list[onnx.FunctionProto]:
    """All functions.

    Args:
        opset: The version of the default domain that the model uses; bodies are written in the same.
        kind: Of the total variation, one of `KINDS`. A body cannot choose by a string, so that all
            `TotalVariation` nodes of one file are of one kind.
    """
    texts = (*losses.texts(kind), *channels_first.TEXTS, *channels_last.TEXTS)
    header = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}]>'
    return [onnx.parser.parse_function(header + text) for text in texts]

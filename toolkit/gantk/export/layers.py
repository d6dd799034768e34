# SPDX-License-Identifier: Apache-2.0
"""Which layer of a file is the first that computes something else: the one that a refusal names."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from gantk.runtime.runner import Array

TOLERANCE = {"fp32": 1e-3, "fp16": 0.02, "bf16": 0.1}
"""The relative difference from which a layer is named as the place where outputs part, by precision."""


def first_apart(
    outputs: Mapping[str, Array],
    exposed: Mapping[str, tuple[str, str]],
    wanted: Callable[[str, str, Array], Array | None],
    precision: str,
) -> tuple[str, float] | None:
    """The first layer whose tensor is not what it should be, or the one that is furthest from it.

    Args:
        outputs: Of a graph whose intermediate tensors are outputs.
        exposed: From `gantk.export.precision.expose_intermediates`.
        wanted: What an output should be, by its name, its tensor's and its value; `None` where that is not known.
        precision: Of the file.

    Returns:
        The layer's name and its largest difference as a share of the tensor's largest value; `None` where
        no tensor could be compared.
    """
    found: list[tuple[str, float]] = []
    for name, (tensor, layer) in exposed.items():
        reference = wanted(name, tensor, outputs[name])
        if reference is not None and reference.shape == outputs[name].shape:
            found.append((layer, _relative(outputs[name], reference)))
    parted = [entry for entry in found if not entry[1] <= TOLERANCE[precision]]
    return parted[0] if parted else max(found, key=lambda entry: entry[1], default=None)


def _relative(output: Array, reference: Array) -> float:
    scale = float(np.abs(reference).max(initial=0.0)) or 1.0
    return float(np.abs(output.astype(np.float64) - reference).max(initial=0.0)) / scale

# SPDX-License-Identifier: Apache-2.0
"""What PyTorch makes of trial inputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from gantk.errors import GantkError
from gantk.export.reference import Feeds, Reference, picture_sizes
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def run_torch(
    module: nn.Module,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    feeds: Sequence[Feeds],
    precision: str,
) -> Reference:
    """Run a float32 module in PyTorch, in a precision, with float32 inputs and outputs.

    Raises:
        GantkError: An output is NaN, infinite, or the same constant everywhere.
    """
    dtype = TORCH_DTYPES[precision]
    lowered = copy.deepcopy(module).to(dtype) if precision != "fp32" else module
    made = []
    with torch.inference_mode():
        for feed in feeds:
            # A bare module wants its own precision; `Bordered` takes any.
            arguments = [torch.from_numpy(feed[spec.name]) for spec in inputs]
            results = lowered(*(a.to(dtype) if a.is_floating_point() else a for a in arguments))
            results = (results,) if isinstance(results, torch.Tensor) else results
            made.append({spec.name: to_numpy(result) for spec, result in zip(outputs, results, strict=True)})
    name = f"torch {str(dtype).removeprefix('torch.')}"
    for spec in outputs:
        _refuse_degenerate(name, spec, [batch[spec.name] for batch in made])
    spans = {spec.name: _span(spec, [batch[spec.name] for batch in made]) for spec in outputs}
    return Reference(name, tuple(feeds), tuple(made), spans, picture_sizes(inputs, feeds))


def to_numpy(tensor: torch.Tensor) -> Array:
    """Floats as float32."""
    array: Array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()
    return array


def _refuse_degenerate(name: str, spec: TensorSpec, batches: Sequence[Array]) -> None:
    values = np.concatenate([batch.astype(np.float64).ravel() for batch in batches])
    bad = int(np.count_nonzero(~np.isfinite(values)))
    if bad:
        raise GantkError(
            f"{name} itself yields {bad} of {values.size} values that are NaN or infinite in `{spec.name}`",
            where=spec.name,
            hint="train further, or export another precision (--precision fp32)",
        )
    if np.ptp(values) == 0:
        raise GantkError(
            f"{name} itself yields the constant {values[0]:g} everywhere in `{spec.name}`",
            where=spec.name,
            hint="the network has died; look at the run's samples, and train again",
        )


def _span(spec: TensorSpec, batches: Sequence[Array]) -> float:
    if spec.range is not None:
        return spec.range[1] - spec.range[0]
    return max(float(batch.max()) for batch in batches) - min(float(batch.min()) for batch in batches)

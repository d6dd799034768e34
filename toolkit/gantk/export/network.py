# SPDX-License-Identifier: Apache-2.0
"""A network of PyTorch's on its way into a bundle."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from gantk.checkpoint import Generator
from gantk.export.locate import locate
from gantk.export.onnx import Traced
from gantk.export.original import Original, serialized
from gantk.export.reference import Reference
from gantk.runtime.model import from_bytes
from gantk.tensors import TensorSpec


@dataclass(frozen=True)
class Network:
    """A network on its way into a bundle.

    Args:
        generator: Where it came from.
        module: What is exported: the generator's module between its borders.
        inputs: Of the module.
        outputs: Of the module.
        traced: The module as a float32 graph.
        full: What PyTorch makes of random inputs in float32.
        psnr_min: The smallest PSNR against PyTorch in dB, in place of each precision's own threshold.
    """

    generator: Generator
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    traced: Traced
    full: Reference
    psnr_min: float | None

    @property
    def original(self) -> Original:
        """What its files are made of."""
        generator = self.generator
        model = {"family": generator.family, "name": generator.name, "config": generator.config}
        return Original(self.traced.graph, self.inputs, self.outputs, model, self.psnr_min, self._locate)

    @property
    def plain_bytes(self) -> bytes:
        """Its plain float32 file."""
        return serialized(self.original, self.traced.graph, "fp32", "plain")

    def _locate(self, data: bytes, backend: str, precision: str) -> tuple[str, float] | None:
        return locate(from_bytes(data), self.traced.program, self.full.feeds[0], backend, precision)

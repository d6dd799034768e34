# SPDX-License-Identifier: Apache-2.0
"""A network on its way into a bundle, and its ONNX files: none without passing the parity gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import onnx_ir as ir
from torch import nn

from gantk.bundle import FileRef, Parity, Variant
from gantk.checkpoint import Generator
from gantk.errors import GantkError
from gantk.export import verify
from gantk.export.locate import locate
from gantk.export.onnx import Traced
from gantk.export.opset import opset_of
from gantk.export.precision import convert
from gantk.export.reference import Reference
from gantk.export.rewrites.channels_last import CHANNELS_LAST
from gantk.export.rewrites.wholly_native import MARK
from gantk.export.serialize import serialize
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


@dataclass(frozen=True)
class VariantFile:
    """A file that passed the parity gate, and what the manifest says of it."""

    data: bytes
    variant: Variant


@dataclass(frozen=True)
class Checks:
    """What every file of one precision is held against."""

    precision: str
    references: tuple[Reference, ...]
    of_torch: tuple[Parity, ...]


def plain_bytes(network: Network) -> bytes:
    """The plain float32 file of a network."""
    return serialized(network, network.traced.graph, "fp32", "plain")


def verified_file(network: Network, graph: ir.Model, checks: Checks, form: str) -> VariantFile:
    """Lower a float32 graph and pass its file through the gate."""
    precision = checks.precision
    data = serialized(network, convert(graph, precision), precision, form)
    verdicts = list(checks.of_torch)
    native = verify.native_backends(precision) if MARK in graph.metadata_props else ()
    for backend in (*native, *verify.working_backends(precision)):
        verdicts += verify.measure(data, precision, backend, checks.references, network.psnr_min)
    for verdict in verify.decisive(verdicts, precision):
        if not verdict.passed:
            raise _refusal(network, data, precision, verdict)
    name = f"model.{precision}.onnx" if form == "plain" else f"model.{precision}.{form}.onnx"
    ref = FileRef.of(name, data)
    return VariantFile(data, Variant(ref, precision, form, opset_of(precision), tuple(verdicts)))


def serialized(network: Network, graph: ir.Model, precision: str, form: str) -> bytes:
    generator = network.generator
    model = {"family": generator.family, "name": generator.name, "config": generator.config}
    facts: dict[str, Any] = {"model": model, "precision": precision, "form": form}
    if CHANNELS_LAST in graph.metadata_props:
        facts["channels_last"] = True
    if MARK in graph.metadata_props:
        facts["wholly_native"] = True
    return serialize(graph, network.inputs, network.outputs, facts)


def _refusal(network: Network, data: bytes, precision: str, verdict: Parity) -> GantkError:
    """Say what is off, by how much, and which layer is the first to be."""
    if verdict.backend == "torch":
        what = f"the network does not survive {precision}: PyTorch's own {verdict.reason}"
        return GantkError(
            what, where=f"{precision}, {verdict.reference}", hint="--precision fp32, or a lower --psnr-min"
        )
    found = locate(
        from_bytes(data), network.traced.program, network.full.feeds[0], verdict.backend, precision
    )
    layer = (
        ""
        if found is None
        else f"; layer `{found[0]}` is the first to part, by {found[1]:.2g} of its largest value"
    )
    return GantkError(
        f"the {precision} file does not compute on {verdict.backend} what {verdict.reference} does: "
        f"{verdict.reason}{layer}",
        where=f"{precision}, {verdict.backend} {verdict.version}",
        hint="nothing was written; --psnr-min DB accepts less, another --precision may hold",
    )

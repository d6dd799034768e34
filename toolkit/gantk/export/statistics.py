# SPDX-License-Identifier: Apache-2.0
"""The form of a style network whose instance normalisations take their statistics as an input."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import onnx

from gantk.bundle import FileRef, Interface, Variant
from gantk.errors import GantkError
from gantk.export import verify
from gantk.export.engines.progress import Report
from gantk.export.network import Network
from gantk.export.opset import OPSET
from gantk.export.original import VariantFile
from gantk.export.reference import Feeds
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model
from gantk.stylize.statistics import MEASURED, STATISTICS, Norm, add_measured, give_statistics, own_statistics
from gantk.tensors import TensorSpec

FORM = "statistics"


def make_statistics(network: Network, report: Report) -> VariantFile:
    """The float32 file of a network with the statistics of its normalisations as an input and as an output.

    With it a program of its own paints a picture in tiles: under the same statistics all tiles fit together. The
    input is ``statistics`` float32[N, 2, C], means and variances of all normalised channels; the output
    ``measured`` has what they are in the pictures given, each layer's right where those of all layers before it
    are. So a run over all tiles for each layer, from the first to the last, gives the statistics that the network
    would have taken of the whole picture.

    Args:
        network: The network.
        report: Called with a line.

    Raises:
        GantkError: The network has no instance normalisation; or the file, given a picture's own statistics, does
            not compute what PyTorch does.
    """
    report("statistics: verifying")
    proto = onnx.load_from_string(network.plain_bytes)
    norms = give_statistics(proto)
    add_measured(proto, norms)
    interface = _interface(network, norms)
    _describe(proto, interface)
    onnx.checker.check_model(proto, full_check=True)
    data = proto.SerializeToString(deterministic=True)
    # PyTorch's outputs, for the same pictures with the statistics that the network itself takes of them.
    reference = replace(network.full, feeds=with_own_statistics(data, network.full.feeds))
    verdicts = []
    for backend in verify.working_backends("fp32"):
        verdicts += verify.measure(data, "fp32", backend, [reference], network.psnr_min)
    if not verdicts[0].passed:
        raise GantkError(
            f"the form with statistics does not compute what {reference.name} does: {verdicts[0].reason}",
            where=f"fp32, {verdicts[0].backend} {verdicts[0].version}",
            hint="without --tiles the bundle does not need it",
        )
    file = FileRef.of(f"model.fp32.{FORM}.onnx", data)
    return VariantFile(data, Variant(file, "fp32", FORM, OPSET, tuple(verdicts), interface=interface))


def _interface(network: Network, norms: list[Norm]) -> Interface:
    shape = ("N", 2, norms[-1].span.stop)
    given, measured = (TensorSpec(name, "float32", shape) for name in (STATISTICS, MEASURED))
    return Interface((*network.inputs, given), (*network.outputs, measured))


def _describe(proto: onnx.ModelProto, interface: Interface) -> None:
    """Let the file tell what it is, as the plain one does."""
    described = {**interface.to_json(), "form": FORM}
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    for key, value in described.items():
        facts[f"gantk.{key}"] = json.dumps(value)
    del proto.metadata_props[:]
    onnx.helper.set_model_props(proto, facts)


def with_own_statistics(data: bytes, feeds: Sequence[Feeds]) -> tuple[Feeds, ...]:
    """Pictures with the statistics that the network of a file itself takes of them."""
    with open_model(from_bytes(data), verify.working_backends("fp32")[0]) as runner:
        return tuple({**feed, STATISTICS: own_statistics(runner, data, feed)} for feed in feeds)

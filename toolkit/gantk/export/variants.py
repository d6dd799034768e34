# SPDX-License-Identifier: Apache-2.0
"""The ONNX files of a network of PyTorch's: each precision's plain form, and a rewritten one where that is faster."""

from __future__ import annotations

from gantk.export import verify
from gantk.export.calibration import Calibration, CalibrationFeeds
from gantk.export.engines.progress import Report
from gantk.export.int8 import quantise
from gantk.export.network import Network
from gantk.export.original import Checks, VariantFile, verified_file
from gantk.export.precision import audit_range, refuse_overflow
from gantk.export.rewritten import with_rewritten
from gantk.export.speed import timed_feeds
from gantk.export.torch_reference import run_torch


def make_variants(
    network: Network, precision: str, report: Report, *, rewrites: bool = True
) -> list[VariantFile]:
    """The plain file of a precision, and the rewritten one where it is measured faster on a backend.

    Args:
        network: The network.
        precision: ``fp32``, ``fp16`` or ``bf16``.
        report: Called with a line at each step.
        rewrites: Whether to try the rewrites.

    Raises:
        GantkError: The plain file does not compute what PyTorch does, or the network does not survive the
            precision; the layer is named.
    """
    report(f"{precision}: verifying")
    if precision == "fp16":  # First: it names the layer, where PyTorch's own fp16 only overflows.
        _audit_range(network)
    references, of_torch = [network.full], []
    if precision != "fp32":
        half = run_torch(network.module, network.inputs, network.outputs, network.full.feeds, precision)
        references.append(half)
        of_torch.append(verify.compare_references(half, network.full, precision, network.psnr_min))
    checks = Checks(precision, tuple(references), tuple(of_torch))
    original = network.original
    plain = verified_file(original, original.graph, checks, "plain")
    if not rewrites:
        return [plain]
    return with_rewritten(original, plain, checks, timed_feeds(network.inputs), report)


def make_quantised(
    network: Network, precision: str, calibration: Calibration, found: CalibrationFeeds, report: Report
) -> VariantFile:
    """The int8 or fp8 file of a network: see `gantk.export.int8.quantise`, whose errors it raises.

    Args:
        network: The network.
        precision: One of `gantk.export.int8.QUANTISED`.
        calibration: Where ranges come from.
        found: What was found there: see `gantk.export.calibration.calibration_feeds`.
        report: Called with a line at each step.
    """
    judges = [*network.full.feeds, *found.judges]
    reference = run_torch(network.module, network.inputs, network.outputs, judges, "fp32")
    data, variant = quantise(
        network.plain_bytes, precision, calibration, found, reference, network.psnr_min, report
    )
    return VariantFile(data, variant)


def _audit_range(network: Network) -> None:
    refuse_overflow(audit_range(network.plain_bytes, network.full.feeds, verify.working_backends("fp32")[0]))

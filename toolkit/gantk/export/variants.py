# SPDX-License-Identifier: Apache-2.0
"""The ONNX files of one network: each precision's plain form, and a rewritten one where that is faster."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir
from torch import nn

from gantk.bundle import FileRef, Parity, Variant
from gantk.checkpoint import Generator
from gantk.errors import GantkError
from gantk.export import verify
from gantk.export.onnx import OPSET, Traced, serialize
from gantk.export.precision import audit_range, convert, refuse_overflow
from gantk.export.rewrite import REWRITES, rewrite
from gantk.export.speed import PAYS, speedup
from gantk.runtime.model import from_bytes
from gantk.tensors import TensorSpec

Report = Callable[[str], None]


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
    full: verify.Reference
    psnr_min: float | None


@dataclass(frozen=True)
class VariantFile:
    """A file that passed the parity gate, and what the manifest says of it."""

    data: bytes
    variant: Variant


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
    if precision == "fp16":
        _audit_range(network)  # First, for PyTorch's own fp16 would only tell that something overflowed.
    references, of_torch = [network.full], []
    if precision != "fp32":
        half = verify.run_torch(
            network.module, network.inputs, network.outputs, network.full.feeds, precision
        )
        references.append(half)
        of_torch.append(verify.compare_references(half, network.full, precision, network.psnr_min))
    checks = _Checks(precision, tuple(references), tuple(of_torch))
    plain = _verified(network, network.traced.graph, checks, "plain")
    return _with_rewritten(network, plain, checks, report) if rewrites else [plain]


@dataclass(frozen=True)
class _Checks:
    """What every file of one precision is held against."""

    precision: str
    references: tuple[verify.Reference, ...]
    of_torch: tuple[Parity, ...]


def _audit_range(network: Network) -> None:
    data = _serialize(network, network.traced.graph, "fp32", "plain")
    refuse_overflow(audit_range(data, network.full.feeds, verify.working_backends("fp32")[0]))


def _verified(network: Network, graph: ir.Model, checks: _Checks, form: str) -> VariantFile:
    """Lower a float32 graph and pass its file through the gate."""
    precision = checks.precision
    data = _serialize(network, convert(graph, precision), precision, form)
    backends = verify.working_backends(precision)
    verdicts = list(checks.of_torch)
    for backend in backends:
        verdicts += verify.measure(data, precision, backend, checks.references, network.psnr_min)
    # Another backend's failure is recorded, and `auto` passes it by; PyTorch's or the default one's is final.
    decisive = {"torch", *backends[:1]}
    for verdict in verdicts:
        if verdict.backend in decisive and not verdict.passed:
            raise _refusal(network, data, precision, verdict)
    name = f"model.{precision}.onnx" if form == "plain" else f"model.{precision}.{form}.onnx"
    return VariantFile(data, Variant(FileRef.of(name, data), precision, form, OPSET, tuple(verdicts)))


def _serialize(network: Network, graph: ir.Model, precision: str, form: str) -> bytes:
    generator = network.generator
    model = {"family": generator.family, "name": generator.name, "config": generator.config}
    return serialize(
        graph, network.inputs, network.outputs, {"model": model, "precision": precision, "form": form}
    )


def _refusal(network: Network, data: bytes, precision: str, verdict: Parity) -> GantkError:
    """Say what is off, by how much, and which layer is the first to be."""
    if verdict.backend == "torch":
        what = f"the network does not survive {precision}: PyTorch's own {verdict.reason}"
        return GantkError(
            what, where=f"{precision}, {verdict.reference}", hint="--precision fp32, or a lower --psnr-min"
        )
    found = verify.locate(
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


def _with_rewritten(
    network: Network, plain: VariantFile, checks: _Checks, report: Report
) -> list[VariantFile]:
    """The plain file, and for each backend the rewritten one that is fastest there, if one is."""
    fastest: dict[tuple[str, ...], list[str]] = {}
    made: dict[tuple[str, ...], VariantFile | None] = {(): plain}
    for backend in verify.working_backends(checks.precision):
        best: tuple[str, ...] = ()
        for name in REWRITES:
            tried = (*best, name)
            if tried not in made:
                made[tried] = _rewritten(network, tried, checks)
            if _is_faster(made[best], made[tried], backend, network, report):
                best = tried
        fastest.setdefault(best, []).append(backend)
    if set(fastest) <= {()}:
        return [plain]
    files = ((made[applied], backends) for applied, backends in {(): [], **fastest}.items())
    return [
        replace(file, variant=replace(file.variant, fastest_on=tuple(backends)))
        for file, backends in files
        if file is not None
    ]


def _rewritten(network: Network, names: tuple[str, ...], checks: _Checks) -> VariantFile | None:
    """The verified file of a rewritten graph, or `None` where a rewrite finds nothing to do."""
    graph = rewrite(network.traced.graph, names)
    if graph is None:
        return None
    file = _verified(network, graph, checks, "rewritten")
    return replace(file, variant=replace(file.variant, rewrites=names))


def _is_faster(
    best: VariantFile | None, tried: VariantFile | None, backend: str, network: Network, report: Report
) -> bool:
    if best is None or tried is None or tried.variant.failed_on(backend) is not None:
        return False
    gain = speedup(best.data, tried.data, backend, network.inputs)
    if gain is None:
        return False
    report(
        f"  {tried.variant.precision} on {backend}: {tried.variant.rewrites[-1]} makes it {gain:.2f} times as fast"
    )
    return gain >= PAYS

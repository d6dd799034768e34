# SPDX-License-Identifier: Apache-2.0
"""The parity gate: no file is written before what it computes has been compared with PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

from gantk.bundle import Parity
from gantk.errors import GantkError
from gantk.export.reference import Outputs, Reference
from gantk.runtime import parity
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import BACKENDS, executed, open_model, status


def working_backends(precision: str) -> tuple[str, ...]:
    """The backends that work here and can open a file of this precision; the first is the default one."""
    return tuple(_executions(precision))


def measurable_backends(precision: str) -> tuple[str, ...]:
    """Those of `working_backends` that compute in the file's own precision: of others no time tells anything."""
    return tuple(name for name, executed in _executions(precision).items() if executed == precision)


def native_backends(precision: str) -> tuple[str, ...]:
    """Those that work here and compute a precision with gantk's native operators alone: see `WHOLLY_NATIVE`."""
    found = []
    for name in BACKENDS:
        here = status(name)
        by = [executed(name, precision, here.devices[0], native=n) for n in (False, True) if here.works]
        if by == [None, precision]:
            found.append(name)
    return tuple(found)


def measure(
    data: bytes,
    precision: str,
    backend: str,
    references: Sequence[Reference],
    psnr_min: float | None,
    threshold: parity.Threshold | None = None,
) -> list[Parity]:
    """Run a file on one backend and compare it with each reference.

    Args:
        data: The ONNX file.
        precision: Of the file; it chooses the thresholds.
        backend: A working backend.
        references: All made from the same feeds.
        psnr_min: Replaces the precision's smallest PSNR, in dB.
        threshold: Replaces all of the precision's.

    Returns:
        A verdict for each reference, or one that failed where the backend cannot load or run the file.
    """
    batches: tuple[int, ...] = ()
    try:
        with open_model(from_bytes(data), backend) as runner:
            batches = references[0].batches
            outputs = [runner.run(feed) for feed in references[0].feeds]
            by = (runner.backend, runner.version, runner.device, runner.precision)
    except GantkError as error:
        return [_unable(backend, precision, references[0], error.what, batches)]
    return [
        _judge(outputs, reference, precision, psnr_min, *by, threshold=threshold) for reference in references
    ]


def decisive(verdicts: Sequence[Parity], precision: str) -> list[Parity]:
    """The verdicts that a file stands and falls with; others are recorded, and `auto` passes their backends by.

    They are PyTorch's own and the default backend's, which is the first. But there are backends that say they
    compute in bf16 and lack it for an operator: of a bf16 file the first one that loads it decides, if any does.

    Args:
        verdicts: On one file, in the order of the backends.
        precision: Of the file.
    """
    deciding = [v.backend for v in verdicts if v.backend != "torch" and (precision != "bf16" or v.loaded)]
    return [verdict for verdict in verdicts if verdict.backend in ("torch", *deciding[:1])]


def _unable(
    backend: str, precision: str, reference: Reference, reason: str, batches: tuple[int, ...]
) -> Parity:
    """The verdict on a backend that cannot load a file, and so was given no batches, or cannot run it."""
    here = status(backend)
    return Parity(
        backend=backend,
        version=here.version or "unknown",
        device=here.devices[0],
        executed=precision,
        reference=reference.name,
        max_abs=None,
        psnr_db=None,
        cosine=None,
        samples=0,
        batches=batches,
        passed=False,
        # Vendors' texts are long and may hold what a manifest refuses.
        reason="".join(c if c.isprintable() else " " for c in reason)[:500],
    )


def compare_references(half: Reference, full: Reference, precision: str, psnr_min: float | None) -> Parity:
    """PyTorch's own half precision against its float32: whether the network survives the precision at all."""
    import torch

    return _judge(half.outputs, full, precision, psnr_min, "torch", torch.__version__, "cpu", precision)


def _judge(
    outputs: Sequence[Outputs],
    reference: Reference,
    precision: str,
    psnr_min: float | None,
    backend: str,
    version: str,
    device: str,
    executed: str,
    threshold: parity.Threshold | None = None,
) -> Parity:
    threshold = threshold or parity.THRESHOLDS[precision]
    if psnr_min is not None:
        threshold = threshold.asking(psnr_min)
    verdicts = []
    for name, span in reference.spans.items():
        difference = parity.compare([o[name] for o in outputs], [r[name] for r in reference.outputs], span)
        verdicts.append((difference.against(threshold, span), difference))
    # The worst of several outputs decides.
    reason, worst = min(
        verdicts, key=lambda v: (v[0] is None, v[1].psnr_db if v[1].psnr_db is not None else -1.0)
    )
    return Parity(
        backend=backend,
        version=version,
        device=device,
        executed=executed,
        reference=reference.name,
        max_abs=worst.max_abs,
        psnr_db=worst.psnr_db,
        cosine=worst.cosine,
        samples=worst.samples,
        batches=reference.batches,
        sizes=reference.sizes,
        passed=reason is None,
        reason=reason,
    )


def _executions(precision: str) -> dict[str, str]:
    """What a file of this precision is computed in by each backend that works here and can open it."""
    found = {}
    for name in BACKENDS:
        here = status(name)
        if here.works and (by := executed(name, precision, here.devices[0])) is not None:
            found[name] = by
    return found

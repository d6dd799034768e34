# SPDX-License-Identifier: Apache-2.0
"""What the contenders' outputs are compared with: PyTorch in float32 where it can be had."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gantk.bench.contender import Contender
from gantk.bench.contenders import find, has_torch
from gantk.bench.process import Worker, WorkerError
from gantk.bench.subject import Arrays, Case, File, Subject, probe_outputs
from gantk.errors import GantkError
from gantk.runtime import parity
from gantk.runtime.model import from_path
from gantk.runtime.registry import status
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec

ONNX_REFERENCE = "onnx reference"
ONNXRUNTIME = "onnxruntime"


@dataclass(frozen=True)
class Reference:
    """Outputs that count as right.

    Args:
        name: Who computed them, e.g. ``torch float32``.
        outputs: One dictionary of arrays a case.
        random: The output that a second run made anew, if there is one: nobody can be judged by it.
    """

    name: str
    outputs: tuple[Arrays, ...]
    random: str | None = None


class OnnxReferenceRunner(Runner):
    """ONNX's own evaluator in Python: slow, and independent of every backend."""

    def __init__(self, path: str) -> None:
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = from_path(path)
        self._evaluator: Any = ReferenceEvaluator(onnx.load_from_string(model.data))
        super().__init__(
            model.inputs,
            model.outputs,
            backend=ONNX_REFERENCE,
            version=onnx.__version__,
            device="cpu",
            precision=model.precision,
            file_precision=model.precision,
        )

    def _run(self, arrays: dict[str, Array], out: Mapping[str, Array]) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        return self._delivered(dict(zip(names, self._evaluator.run(names, arrays), strict=True)), out)

    def close(self) -> None:
        self._evaluator = None


def compute(
    subject: Subject,
    cases: Sequence[Case],
    feeds: Sequence[Path],
    *,
    from_probe: Sequence[bool],
    folder: Path,
    threads: int,
    timeout_s: float,
) -> tuple[Reference, list[str]]:
    """The reference for every case, from the first source that works, and why others did not.

    In this order: PyTorch float32 on the bundle's checkpoint; the outputs that the probe holds;
    ONNX Runtime on the file; ONNX's own evaluator.

    Raises:
        GantkError: Nothing here can compute one.
    """
    problems: list[str] = []
    for name, contender in _sources(subject, threads):
        if contender is None:
            outputs = [probe_outputs(subject.outputs, case, subject.probe) for case in cases]
            if all(from_probe) and all(output is not None for output in outputs):
                return Reference(name, tuple(output for output in outputs if output is not None)), problems
            continue
        try:
            return _run(name, contender, feeds, folder, threads, timeout_s), problems
        except WorkerError as error:
            problems.append(f"no reference from {name}: {error.what}")
    raise GantkError(
        "; ".join(problems) or "nothing here can run it", where=str(subject.path), hint="gantk doctor"
    )


def judge(
    outputs: Arrays,
    reference: Arrays,
    specs: Sequence[TensorSpec],
    name: str,
    precision: str,
    *,
    family: str = "",
) -> dict[str, Any]:
    """The parity of outputs with their reference; the worst of several decides.

    Args:
        outputs: What a contender computed.
        reference: What is right.
        specs: Of the outputs.
        name: The reference's.
        precision: The coarser of what was computed in and what the weights are stored in.
        family: The network's (see `gantk.runtime.parity.threshold_of`).
    """
    verdicts = []
    for spec in specs:
        right = np.atleast_1d(reference[spec.name])
        values = np.atleast_1d(outputs.get(spec.name, np.empty(0, right.dtype)))
        span = parity.span_of(right, spec.range)
        difference = parity.compare([values], [right], span)
        verdicts.append((difference.against(parity.threshold_of(precision, family), span), difference))
    reason, worst = min(
        verdicts, key=lambda v: (v[0] is None, v[1].psnr_db if v[1].psnr_db is not None else -1.0)
    )
    return {
        "reference": name,
        "max_abs": worst.max_abs,
        "psnr_db": worst.psnr_db,
        "cosine": worst.cosine,
        "samples": worst.samples,
        "passed": reason is None,
        "reason": reason,
    }


def coarser(*precisions: str) -> str:
    """Of several precisions the one with the loosest threshold."""
    known = [precision for precision in precisions if precision in parity.THRESHOLDS]
    return min(known, key=lambda precision: parity.THRESHOLDS[precision].psnr_db)


def _sources(subject: Subject, threads: int) -> list[tuple[str, Contender | None]]:
    sources: list[tuple[str, Contender | None]] = []
    if subject.checkpoint_bytes is not None and has_torch():
        eager = next(c for c in find(subject, ["torch"], ["fp32"], "cpu", threads)[0] if c.mode == "eager")
        sources.append(("torch float32", eager))
    if subject.probe.outputs:
        sources.append(("torch float32 (probe)", None))
    first = (
        subject.files[0]
        if "fp32" not in subject.precisions
        else next(file for file in subject.files if file.precision == "fp32")
    )
    if ONNXRUNTIME not in first.failures and status(ONNXRUNTIME).works:
        computed = "float32" if first.precision in ("fp32", "fp16") else first.precision
        sources.append((f"{ONNXRUNTIME} {computed}", _of_onnxruntime(subject, first, threads)))
    options = {"path": str(subject.path)}
    evaluator = Contender(
        ONNX_REFERENCE, "fp32", "fp32", None, None, 0, f"{__name__}:OnnxReferenceRunner", options
    )
    return [*sources, (ONNX_REFERENCE, evaluator)]


def _of_onnxruntime(subject: Subject, file: File, threads: int) -> Contender:
    options = {
        "path": str(subject.path),
        "backend": ONNXRUNTIME,
        "precision": file.precision,
        "form": file.form,
        "device": "cpu",
        "threads": threads,
    }
    factory = "gantk.bench.subject:open_file"
    return Contender(ONNXRUNTIME, "fp32", file.precision, file.form, None, 0, factory, options)


def _run(
    name: str, contender: Contender, feeds: Sequence[Path], folder: Path, threads: int, timeout_s: float
) -> Reference:
    made: list[Arrays] = []
    with Worker("reference", folder, threads) as worker:
        worker.ask(timeout_s, do="load", factory=contender.factory, options=contender.options, imports=[])
        target = folder / "reference.npz"
        for path in (*feeds, feeds[-1]):
            worker.ask(timeout_s, do="feed", path=str(path))
            worker.ask(timeout_s, do="output", path=str(target))
            made.append(load_arrays(target))
    *outputs, again = made
    random = (output for output, values in outputs[-1].items() if not parity.repeats(values, again[output]))
    return Reference(name, tuple(outputs), next(random, None))


def load_arrays(path: Path) -> Arrays:
    """The arrays of an ``.npz`` file."""
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)

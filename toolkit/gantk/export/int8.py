# SPDX-License-Identifier: Apache-2.0
"""int8 and fp8 by static quantisation: ranges from the user's pictures, float layers where quality asks for them."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import onnx

from gantk.bundle import FileRef, Parity, Variant
from gantk.errors import BackendMissingError, GantkError
from gantk.export import verify
from gantk.export.calibration import METHODS, Calibration, CalibrationFeeds
from gantk.export.engines.progress import Report
from gantk.export.fp8 import from_int8
from gantk.export.opset import OPSET
from gantk.export.qdq import LAYERS, MOVERS, bypass_outputs
from gantk.export.reference import Reference
from gantk.files import temporary_folder
from gantk.runtime.parity import THRESHOLDS
from gantk.runtime.runner import Array

QUANTISED = ("int8", "fp8")


def quantise(
    data: bytes,
    precision: str,
    calibration: Calibration,
    found: CalibrationFeeds,
    reference: Reference,
    psnr_min: float | None,
    report: Report,
) -> tuple[bytes, Variant]:
    """The int8 file of a network, for ONNX Runtime, OpenVINO and TensorRT alike, or the fp8 one, for TensorRT.

    ONNX Runtime runs fp8 files too: it rounds to fp8, and computes in float32. So their quality is known without a
    GPU, and their speed is not.

    Convolutions are quantised, symmetrically, a scale for each output channel. Where the outputs of all of them
    together are too far from what they should be, layers go back to float32, the one first that alone does most harm.

    Args:
        data: The float32 file.
        precision: One of `QUANTISED`.
        calibration: Where ranges come from.
        found: What was found there: see `gantk.export.calibration`.
        reference: What the network should make of the inputs that judge.
        psnr_min: The smallest PSNR against it in dB, in place of the precision's own threshold.
        report: Called with a line at each step.

    Returns:
        The file, and what the manifest says of it.

    Raises:
        GantkError: No layer can be quantised at this quality, or there is none.
        BackendMissingError: ONNX Runtime is not installed.
    """
    report(f"  {precision}: {found.told(calibration.count)}")
    with temporary_folder("quantise") as folder:
        quantiser = Quantiser(data, found.calibrating, calibration.method, folder, precision)
        made, verdicts = _search(quantiser, psnr_min, reference, report)
    for backend in verify.working_backends(precision)[1:]:
        verdicts += verify.measure(made, precision, backend, [reference], psnr_min)
    file = FileRef.of(f"model.{precision}.onnx", made)
    calibrated = found.facts(calibration)
    return made, Variant(file, precision, "plain", OPSET, tuple(verdicts), calibrated=calibrated)


class Quantiser:
    """Quantises a network as often as wanted, by ranges that are taken once.

    Args:
        data: The float32 ONNX file.
        feeds: To take the ranges from.
        method: A key of `METHODS`.
        folder: For what ONNX Runtime writes.
        precision: One of `QUANTISED`.
    """

    def __init__(
        self,
        data: bytes,
        feeds: Sequence[dict[str, Array]],
        method: str,
        folder: Path,
        precision: str = "int8",
    ) -> None:
        self._model, self.precision = onnx.load_from_string(data), precision
        self._feeds, self._method, self._folder = feeds, method, folder
        self.layers = [node.name for node in self._model.graph.node if node.op_type in LAYERS]
        if not self.layers:
            raise GantkError(
                f"the network has no layer that {precision} is made of: {', '.join(LAYERS)}",
                where=f"--precision {precision}",
                hint="--precision fp16",
            )

    def quantise(self, kept: Sequence[str] = ()) -> bytes:
        """The ONNX file with all layers quantised but those `kept` in float32."""
        try:
            from onnxruntime import quantization as ort
        except ImportError as error:
            raise BackendMissingError(
                f"quantisation wants onnxruntime: {error}", hint="pip install 'gantk[cpu]'"
            ) from error

        class Reader(ort.CalibrationDataReader):  # type: ignore[misc]
            def __init__(self, feeds: Sequence[dict[str, Array]]) -> None:
                self._left = iter(feeds)

            def get_next(self) -> dict[str, Array] | None:
                return next(self._left, None)

        model = onnx.ModelProto()
        model.CopyFrom(self._model)  # It is changed.
        output, ranges = self._folder / "int8.onnx", self._folder / "ranges.json"
        with _quiet():
            ort.quantize_static(
                model,
                output,
                Reader(self._feeds),
                quant_format=ort.QuantFormat.QDQ,
                op_types_to_quantize=list(LAYERS),
                # What TensorRT takes: symmetric, and no int32 biases.
                activation_type=ort.QuantType.QInt8,
                weight_type=ort.QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=list(kept),
                calibrate_method=getattr(ort.CalibrationMethod, METHODS[self._method]),
                calibration_cache_path=ranges,
                extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
            )
        made = onnx.load(output)
        # ONNX Runtime 1.31 refuses what becomes of such a pair when it moves it (onnxruntime#28144): the whole file.
        bypass_outputs(made.graph, MOVERS)
        if self.precision == "fp8":
            made = from_int8(made, self._model)
        facts = {entry.key: entry.value for entry in self._model.metadata_props}
        onnx.helper.set_model_props(made, {**facts, "gantk.precision": f'"{self.precision}"'})
        data: bytes = made.SerializeToString(deterministic=True)
        return data


def _search(
    quantiser: Quantiser, psnr_min: float | None, reference: Reference, report: Report
) -> tuple[bytes, list[Parity]]:
    """The file with as many int8 layers as quality allows."""
    precision = quantiser.precision
    backend = verify.working_backends(precision)[0]
    wanted = THRESHOLDS[precision].psnr_db if psnr_min is None else psnr_min

    def measure(kept: Sequence[str]) -> tuple[bytes, list[Parity]]:
        data = quantiser.quantise(kept)
        return data, verify.measure(data, precision, backend, [reference], psnr_min)

    kept: list[str] = []
    data, verdicts = measure(kept)
    order: list[str] | None = None
    while not verdicts[0].passed and len(kept) < len(quantiser.layers):
        if order is None:
            report(f"{precision}: {_db(verdicts[0])} with every layer; at least {wanted:g} dB wanted")
            order = _most_harmful(quantiser, measure)
        kept.append(order[len(kept)])
        data, verdicts = measure(kept)
        report(f"  {precision}: {_db(verdicts[0])} with `{kept[-1]}` in float32")
    if len(kept) == len(quantiser.layers):
        raise GantkError(
            f"no layer can be {precision} at {wanted:g} dB: every one had to go back to float32",
            where=f"--precision {precision}",
            hint="a lower --psnr-min, more or other pictures to --calibrate with, or --precision fp16",
        )
    held = len(quantiser.layers) - len(kept)
    report(f"  {precision}: {held} of {len(quantiser.layers)} convolutions, {_db(verdicts[0])}")
    return data, verdicts


def _most_harmful(quantiser: Quantiser, measure: Any) -> list[str]:
    """The layers by what each does alone, the worst first."""
    harm = {}
    for layer in quantiser.layers:
        _, verdicts = measure([other for other in quantiser.layers if other != layer])
        harm[layer] = -1.0 if verdicts[0].psnr_db is None else verdicts[0].psnr_db
    return sorted(quantiser.layers, key=lambda layer: harm[layer])


def _db(verdict: Parity) -> str:
    return f"no picture ({verdict.reason})" if verdict.psnr_db is None else f"{verdict.psnr_db:.1f} dB"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice, which is for other graphs, off the terminal, and what it prints out of our data."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)

# SPDX-License-Identifier: Apache-2.0
"""int8 by static quantisation: ranges from the user's own pictures, and float layers where quality asks for them."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from gantk.bundle import FileRef, Parity, Variant
from gantk.data.decode import decode
from gantk.data.pictures import find_source
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.export import verify
from gantk.export.onnx import OPSET
from gantk.export.variants import Network, Report, VariantFile, plain_bytes
from gantk.runtime.arrays import random_feeds
from gantk.runtime.decode import UnreadableError
from gantk.runtime.parity import THRESHOLDS
from gantk.runtime.runner import Array
from gantk.tensors import TensorSpec

METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}
"""How a tensor's range follows from its values, by the names of ONNX Runtime."""

OPERATORS = ("Conv", "ConvTranspose")
"""What is quantised."""

SIDE = 256
"""Height and width of the pictures that ranges are taken from."""

HELD_OUT = 3
"""How many pictures judge, and do not calibrate."""


@dataclass(frozen=True)
class Calibration:
    """Where the ranges of tensors come from.

    Args:
        folder: Of pictures, for networks that take pictures.
        count: How many of them; spread evenly over the folder.
        method: One of `METHODS`.
    """

    folder: Path | None = None
    count: int = 32
    method: str = "minmax"

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UsageError(
                f"the calibration {self.method!r} is unknown; known are {', '.join(METHODS)}",
                where="--calibration",
            )
        if self.count < 1:
            raise UsageError(f"{self.count} pictures; at least 1 is wanted", where="--calibrate-count")


def make_int8(network: Network, calibration: Calibration, report: Report) -> VariantFile:
    """The int8 file of a network, for ONNX Runtime, OpenVINO and TensorRT alike.

    Convolutions are quantised, symmetrically, a scale for each output channel. Where the pictures of all of them
    together are too far from PyTorch's, layers go back to float32, the one first that alone does most harm.

    Args:
        network: The network.
        calibration: Where ranges come from.
        report: Called with a line at each step.

    Raises:
        UsageError: The network takes pictures, and there is no folder of them.
        GantkError: No layer can be quantised at this quality, or there is none.
        BackendMissingError: ONNX Runtime is not installed.
    """
    feeds = calibration_feeds(network.inputs, calibration)
    held_out = feeds[-HELD_OUT:] if len(feeds) > HELD_OUT else feeds
    reference = verify.run_torch(
        network.module, network.inputs, network.outputs, [*network.full.feeds, *held_out], "fp32"
    )
    report(f"int8: calibrating with {len(feeds)} inputs")
    with tempfile.TemporaryDirectory(prefix="gantk-int8-") as folder:
        quantiser = Quantiser(plain_bytes(network), feeds, calibration.method, Path(folder))
        data, verdicts = _search(quantiser, network.psnr_min, reference, report)
    for backend in verify.working_backends("int8")[1:]:
        verdicts += verify.measure(data, "int8", backend, [reference], network.psnr_min)
    file = FileRef.of("model.int8.onnx", data)
    return VariantFile(data, Variant(file, "int8", "plain", OPSET, tuple(verdicts)))


def calibration_feeds(inputs: Sequence[TensorSpec], calibration: Calibration) -> list[dict[str, Array]]:
    """Inputs to take ranges from: the folder's pictures, and for inputs that are none random ones that suit.

    Raises:
        UsageError: There are pictures among the inputs, and no folder.
        GantkError: The folder has no picture that can be read.
    """
    drawn = [spec for spec in inputs if spec.picture_axes is not None]
    if drawn and calibration.folder is None:
        raise UsageError(
            f"int8 wants pictures to calibrate {', '.join(spec.name for spec in drawn)} with",
            where="--precision int8",
            hint="--calibrate DIR, a folder of pictures such as the network will get",
        )
    sizes = {"N": 1}
    for spec in drawn:
        for axis in spec.picture_axes or ():
            if isinstance(symbol := spec.shape[axis], str):
                sizes[symbol] = max(SIDE, spec.smallest)
    feeds = [random_feeds(inputs, sizes, seed=seed) for seed in range(calibration.count)]
    if calibration.folder is not None and drawn:
        count = len(drawn) * calibration.count
        pictures = _read(calibration.folder, count, max(SIDE, *(spec.smallest for spec in drawn)))
        feeds = feeds[: max(1, len(pictures) // len(drawn))]
        for index, feed in enumerate(feeds):
            for offset, spec in enumerate(drawn):
                pixels = pictures[(index * len(drawn) + offset) % len(pictures)]
                feed[spec.name] = _as_input(pixels, spec, feed[spec.name])
    return feeds


class Quantiser:
    """Quantises a network as often as wanted, by ranges that are taken once.

    Args:
        data: The float32 ONNX file.
        feeds: To take the ranges from.
        method: A key of `METHODS`.
        folder: For what ONNX Runtime writes.
    """

    def __init__(self, data: bytes, feeds: Sequence[dict[str, Array]], method: str, folder: Path) -> None:
        self._model = onnx.load_from_string(data)
        self._feeds, self._method, self._folder = feeds, method, folder
        self.layers = [node.name for node in self._model.graph.node if node.op_type in OPERATORS]
        if not self.layers:
            raise GantkError(
                f"the network has no layer that int8 is made of: {', '.join(OPERATORS)}",
                where="--precision int8",
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
                op_types_to_quantize=list(OPERATORS),
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
        facts = {entry.key: entry.value for entry in self._model.metadata_props}
        onnx.helper.set_model_props(made, {**facts, "gantk.precision": '"int8"'})
        data: bytes = made.SerializeToString(deterministic=True)
        return data


def _search(
    quantiser: Quantiser, psnr_min: float | None, reference: verify.Reference, report: Report
) -> tuple[bytes, list[Parity]]:
    """The file with as many int8 layers as quality allows."""
    backend = verify.working_backends("int8")[0]
    wanted = THRESHOLDS["int8"].psnr_db if psnr_min is None else psnr_min

    def measure(kept: Sequence[str]) -> tuple[bytes, list[Parity]]:
        data = quantiser.quantise(kept)
        return data, verify.measure(data, "int8", backend, [reference], psnr_min)

    kept: list[str] = []
    data, verdicts = measure(kept)
    order: list[str] | None = None
    while not verdicts[0].passed and len(kept) < len(quantiser.layers):
        if order is None:
            report(f"int8: {_db(verdicts[0])} with every layer; at least {wanted:g} dB wanted")
            order = _most_harmful(quantiser, measure)
        kept.append(order[len(kept)])
        data, verdicts = measure(kept)
        report(f"  int8: {_db(verdicts[0])} with `{kept[-1]}` in float32")
    if len(kept) == len(quantiser.layers):
        raise GantkError(
            f"no layer can be int8 at {wanted:g} dB: every one had to go back to float32",
            where="--precision int8",
            hint="a lower --psnr-min, more or other pictures to --calibrate with, or --precision fp16",
        )
    held = len(quantiser.layers) - len(kept)
    report(f"  int8: {held} of {len(quantiser.layers)} convolutions, {_db(verdicts[0])}")
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


def _read(folder: Path, count: int, side: int) -> list[Array]:
    """Up to `count` pictures of a folder, spread evenly, uint8 [3, side, side]."""
    files = find_source(folder).files  # None where it is a file of digits.
    spread = np.linspace(0, max(len(files) - 1, 0), min(count, len(files))).astype(np.int64).tolist()
    pictures: list[Array] = []
    reason = "there is none"
    for index in dict.fromkeys([*spread, *range(len(files))]):  # The others where one of these is broken.
        if len(pictures) == count:
            break
        try:
            pictures.append(decode(files[index], side, 3))
        except UnreadableError as error:
            reason = str(error)
    if not pictures:
        raise GantkError(
            f"no picture of `{folder}` can be read: {reason}", where=str(folder), hint="--calibrate DIR"
        )
    return pictures


def _as_input(pixels: Array, spec: TensorSpec, like: Array) -> Array:
    """A picture uint8 [3, H, W] as an input wants it."""
    axes = (1, 2, 0) if spec.layout == "NHWC" else (0, 1, 2)
    picture = np.ascontiguousarray(pixels.transpose(axes)[None])
    if like.dtype == np.uint8:
        return picture
    low, high = spec.range or (0.0, 1.0)
    scaled: Array = (low + (high - low) * picture.astype(np.float64) / 255).astype(like.dtype)
    return scaled


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantiser's advice, which is for other graphs, off the user's terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)

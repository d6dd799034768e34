# SPDX-License-Identifier: Apache-2.0
"""int8 and fp8 of a trained style network: quality with every layer and after the search, and speed. Prints JSON.

    gantk import fast-neural-style candy.pth --out runs/candy
    python benchmarks/quantised.py runs/candy --calibrate ~/photos PICTURE... [--psnr-min 35] [--save DIR]

`every_layer_db` is the PSNR of the pictures given, against the float32 file on ONNX Runtime, where all convolutions
are quantised; `search` is what `gantk export --psnr-min` makes, with the PSNR of its own check, which is on pictures
that did not calibrate and on drawn scenes. `times_as_fast` as float32 is the median of alternating blocks at 384 x 512
pixels on each backend that computes in int8; fp8 has no speed on a CPU. A factor below 1 says: not recommended here.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from PIL import Image

from gantk.bench import machine
from gantk.bundle import Bundle
from gantk.data.decode import decode
from gantk.export import verify
from gantk.export.calibration import Calibration, calibration_feeds
from gantk.export.int8 import QUANTISED, Quantiser
from gantk.export.pipeline import export
from gantk.export.qdq import LAYERS
from gantk.export.speed import speedup, timed_feeds
from gantk.runtime.model import from_bytes
from gantk.runtime.parity import psnr_db
from gantk.runtime.registry import open_model

SIDE = 512


def quantised_layers(data: bytes) -> int:
    graph = onnx.load_from_string(data).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    return sum(
        all(made_by.get(name) == "DequantizeLinear" for name in node.input[:2])
        for node in graph.node
        if node.op_type in LAYERS
    )


def paint(data: bytes, pictures: list[np.ndarray]) -> np.ndarray:
    """What the network makes of pictures, one after the other."""
    model = from_bytes(data)
    with open_model(model, "onnxruntime") as runner:
        name, made = model.inputs[0].name, model.outputs[0].name
        return np.concatenate([runner.run({name: picture})[made] for picture in pictures])


def quality(made: np.ndarray, wanted: np.ndarray) -> float:
    return psnr_db(float(np.square(made.astype(np.float64) - wanted).mean()), 255.0)


def speeds(plain: bytes, data: bytes, bundle: Bundle) -> dict[str, float]:
    timed = timed_feeds(bundle.manifest.inputs)
    found = {name: speedup(plain, data, name, timed) for name in verify.working_backends("int8")}
    return {name: round(factor, 3) for name, factor in found.items() if factor is not None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--calibrate", type=Path, required=True)
    parser.add_argument("--count", type=int, default=32)
    parser.add_argument("--psnr-min", type=float, default=35.0)
    parser.add_argument("--precision", choices=QUANTISED, action="append")
    parser.add_argument("--save", type=Path, metavar="DIR", help="keep the bundle and the pictures here")
    given = parser.parse_args()
    pictures = [decode(path, SIDE, 3).transpose(1, 2, 0)[None] for path in given.pictures]
    calibration = Calibration(given.calibrate, given.count)
    rows: dict[str, Any] = {}
    with TemporaryDirectory() as folder:
        kept = given.save or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        for precision in given.precision or QUANTISED:
            bundle = export(
                given.run,
                kept / f"{precision}.gantk",
                precisions=("fp32", precision),
                rewrites=False,
                force=True,
                psnr_min=given.psnr_min,
                calibration=calibration,
                report=lambda line: print(line, file=sys.stderr),
            )
            plain, searched = (bundle.read_file(bundle.find(name).file) for name in ("fp32", precision))
            feeds = calibration_feeds(bundle.manifest.inputs, calibration, precision).calibrating
            quantiser = Quantiser(plain, feeds, calibration.method, Path(folder), precision)
            every = quantiser.quantise()
            wanted, all_made, made = (paint(data, pictures) for data in (plain, every, searched))
            rows[precision] = {
                "layers": len(quantiser.layers),
                "every_layer_db": quality(all_made, wanted),
                "every_layer_times_as_fast": speeds(plain, every, bundle) if precision == "int8" else {},
                "search": {
                    "psnr_min": given.psnr_min,
                    "quantised": quantised_layers(searched),
                    "checked_db": bundle.find(precision).parity[0].psnr_db,
                    "pictures_db": quality(made, wanted),
                    "times_as_fast": speeds(plain, searched, bundle) if precision == "int8" else {},
                },
            }
            for name, batch in (("fp32", wanted), (f"{precision}-every", all_made), (precision, made)):
                for path, picture in zip(given.pictures, batch, strict=True):
                    Image.fromarray(picture).save(kept / f"{path.stem}-{name}.png")
    result = {
        "benchmark": "quantised",
        "network": given.run.name,
        "calibration": {"method": calibration.method, "pictures": calibration.count},
        "machine": machine.describe(),
        "versions": machine.versions("cpu"),
        "commit": machine.commit(),
        "rows": rows,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""Float32 files from elsewhere in int8 and fp8, by arrays such as they will get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import networks
from foreign_files import file, node, normal, saved
from gantk.bundle import Calibrated
from gantk.errors import GantkError, UsageError
from gantk.export.calibration import Calibration
from gantk.export.engines.build import BuildOptions
from gantk.export.engines.pipeline import EngineRequest
from gantk.export.foreign.calibration import array_feeds
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.products import Product
from gantk.tensors import TensorSpec

X = TensorSpec("x", "float32", ("N", 4, 8, 8))
Z = TensorSpec("z", "float32", ("N", 2))


def of_vectors() -> Model:
    return from_bytes(networks.generator(metadata=False))


def of_pictures(tmp_path: Path) -> Path:
    return saved(tmp_path, file([node("Conv", "x w", "y")], ("N", 4, 8, 8), w=normal(3, 4, 3, 3)))


def arrays(folder: Path, count: int) -> Path:
    """From 0 to 255, some in a folder within, one or two pictures each."""
    random = np.random.default_rng(0)
    (folder / "within").mkdir(parents=True)
    for index in range(count):
        array = random.uniform(0, 255, (1 + index % 2, 4, 8, 8)).astype(np.float32)
        np.save(folder / ("within" if index % 3 == 0 else ".") / f"{index}.npy", array)
    (folder / "notes.txt").write_text("other things are passed by")
    return folder


@pytest.mark.parametrize(("precision", "largest"), [("int8", 127), ("fp8", 448)])
def test_ranges_are_those_of_the_arrays(tmp_path: Path, precision: str, largest: int) -> None:
    made = bundle_onnx(
        of_pictures(tmp_path),
        tmp_path / "x.gantk",
        precisions=(precision,),
        calibration=Calibration(arrays(tmp_path / "arrays", 12), count=9),
    )
    full, low = made.manifest.variants
    assert (full.precision, low.precision) == ("fp32", precision)
    assert low.calibrated == Calibrated("minmax", 9, 9, 3, 0)
    assert (low.parity[0].passed, low.parity[0].samples) == (True, 5)  # Of two, one and two pictures.
    proto = onnx.load_from_string(made.read_file(low.file))
    scales = [onnx.numpy_helper.to_array(one) for one in proto.graph.initializer if one.name == "x_scale"]
    assert scales == pytest.approx([255 / largest], rel=0.02)


def test_arrays_judge_fp16_too(tmp_path: Path) -> None:
    """Of pixels to 255 a sum leaves the range of fp16, of standard normal ones it does not."""
    path = saved(
        tmp_path, file([node("Conv", "x w", "y")], ("N", 4, 8, 8), w=np.full((3, 4, 3, 3), 9, np.float32))
    )
    bundle_onnx(path, tmp_path / "x.gantk", precisions=("fp16",))
    with pytest.raises(GantkError, match="layer `the Conv` reaches .* in float32"):
        bundle_onnx(
            path,
            tmp_path / "y.gantk",
            precisions=("fp16",),
            calibration=Calibration(arrays(tmp_path / "arrays", 5)),
        )


def test_an_engine_has_the_rest_in_fp16(rtx: Product, tmp_path: Path) -> None:
    request = EngineRequest((rtx.name,), ("fp16", "int8"), BuildOptions(("sm_89",)))
    engines = bundle_onnx(saved(tmp_path, of_vectors()), tmp_path / "x.gantk", request).manifest.engines
    assert [engine.precision for engine in engines] == ["fp16", "int8"]
    assert {layer.precision for layer in engines[1].heavy_layers} == {"int8"}


def test_vectors_are_random(tmp_path: Path) -> None:
    lines: list[str] = []
    made = bundle_onnx(
        saved(tmp_path, of_vectors()), tmp_path / "x.gantk", precisions=("int8",), report=lines.append
    )
    assert made.manifest.variants[1].calibrated == Calibrated("minmax", 32, 32, 3, 0)
    assert "  int8: calibrated with 32 random inputs, judged by 3 others" in lines


def test_pictures_want_arrays(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="int8 takes its ranges from what x will get, and nothing says what"):
        bundle_onnx(of_pictures(tmp_path), tmp_path / "x.gantk", precisions=("int8",))
    assert not (tmp_path / "x.gantk").exists()


def test_several_inputs_come_by_name(tmp_path: Path) -> None:
    x = np.zeros((1, 4, 8, 8), np.float32)
    for index in range(8):
        np.savez(tmp_path / f"{index}.npz", z=np.full((1, 2), index, np.float32), x=x)
    found = array_feeds((X, Z), Calibration(tmp_path, count=5), {}, "int8")
    assert [feed["z"][0, 0] for feed in (*found.calibrating, *found.judging)] == list(range(8))
    assert (len(found.calibrating), found.kind) == (5, "group")


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("x.txt", b"", "has no files .npy or .npz"),
        ("x.npz", b"PK damaged", "is not an .npz file of arrays"),
        ("x.npy", b"damaged", "is one array, and the network takes x, z"),
        ("a.npz", {"x": np.zeros(2)}, "a.npz` has x, and the network takes x, z"),
        ("a.npz", {"x": np.zeros(2), "z": np.array([None])}, "is not an .npz file of arrays: Object arrays"),
    ],
)
def test_arrays_that_do_not_do(tmp_path: Path, name: str, data: Any, text: str) -> None:
    if isinstance(data, bytes):
        (tmp_path / name).write_bytes(data)
    else:
        np.savez(tmp_path / name, **data)
    with pytest.raises(GantkError, match=text):
        array_feeds((X, Z), Calibration(tmp_path), {}, "int8")


def test_arrays_of_another_shape_are_told_by_name(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    np.save(tmp_path / "arrays/a.npy", np.zeros((1, 3, 8, 8), np.float32))
    with pytest.raises(
        GantkError, match=r"does not run on x 1x3x8x8.* has shape \[1, 3, 8, 8\]; the network"
    ):
        bundle_onnx(
            of_pictures(tmp_path),
            tmp_path / "x.gantk",
            precisions=("int8",),
            calibration=Calibration(tmp_path / "arrays"),
        )


@pytest.mark.parametrize(("name", "text"), [("none", "does not exist"), ("file", "is a file")])
def test_the_folder_is_one(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(GantkError, match=text):
        array_feeds((X,), Calibration(tmp_path / name), {}, "int8")

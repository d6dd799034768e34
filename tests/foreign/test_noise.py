# SPDX-License-Identifier: Apache-2.0
"""Files that draw noise in each run: it is drawn once, or left out, and then they are made of as others are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import gantk
from foreign_files import file, node, normal, saved
from gantk.bundle import Bundle
from gantk.errors import GantkError, UsageError
from gantk.export.foreign.noise import draws_noise, settled
from gantk.export.foreign.pipeline import bundle_onnx
from gantk.runtime.model import Model
from gantk.runtime.registry import open_model
from gantk.runtime.runner import Array

SIZES = {"N": 2}
DEEP = ("N", 4, 8, 8)


def noisy(shape: tuple[int | str, ...] = DEEP) -> Model:
    """FastGAN's: one channel of noise as large as the features, times a weight, is added to all of them."""
    return file(
        [
            node("Conv", "x kernel", "features", pads=[1, 1, 1, 1]),
            node("Slice", "features zero one axis", "channel"),
            node("RandomNormalLike", "channel", "drawn", scale=2.0, mean=0.5),
            node("Mul", "weight drawn", "weighted"),
            node("Add", "features weighted", "y"),
        ],
        shape,
        kernel=normal(4, 4, 3, 3),
        zero=[0],
        one=[1],
        axis=[1],
        weight=np.float32([0.25]),
    )


def run(model: Model, pictures: int = 2, side: int = 8, seed: int = 0) -> Array:
    x = np.random.default_rng(seed).standard_normal((pictures, 4, side, side)).astype(np.float32)
    with open_model(model, "onnxruntime", device="cpu") as runner:
        return runner.run({"x": x})["y"]


def repeats(model: Model) -> bool:
    """Whether a runner yields the same again."""
    with open_model(model, "onnxruntime", device="cpu") as runner:
        first, second = (runner.run({"x": normal(2, 4, 8, 8)})["y"] for _ in range(2))
    return np.array_equal(first, second)


def kinds(data: bytes) -> list[str]:
    return [each.op_type for each in onnx.load_from_string(data).graph.node]


def weights(data: bytes) -> dict[str, Array]:
    tensors = onnx.load_from_string(data).graph.initializer
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in tensors}


def test_it_is_the_same_in_every_run_and_for_every_picture() -> None:
    model = noisy()
    assert draws_noise(model)
    assert not repeats(model)
    made = settled(model, "constant", SIZES)
    assert not draws_noise(made)
    assert made.config == {"noise": "constant"}
    assert repeats(made)
    assert weights(made.data)["drawn/noise"].shape == (1, 1, 8, 8)
    quiet = run(settled(model, "zero", SIZES))
    added = run(made) - quiet
    np.testing.assert_allclose(added, np.broadcast_to(added[:1, :1], added.shape), atol=1e-5)
    assert settled(model, "constant", SIZES).data == made.data  # In every export.


def test_zero_leaves_it_out() -> None:
    silent = file([node("Conv", "x kernel", "y", pads=[1, 1, 1, 1])], DEEP, kernel=normal(4, 4, 3, 3))
    np.testing.assert_array_equal(run(settled(noisy(), "zero", SIZES), 3), run(silent, 3))


@pytest.mark.parametrize(
    ("kind", "attributes", "mean", "deviation"),
    [
        ("RandomNormal", {}, 0.0, 1.0),
        ("RandomNormal", {"mean": 3.0, "scale": 0.5}, 3.0, 0.5),
        ("RandomUniform", {}, 0.5, 12**-0.5),
        ("RandomUniform", {"low": -2.0, "high": 4.0}, 1.0, 6 * 12**-0.5),
    ],
)
@pytest.mark.parametrize("like", ["", "Like"])
def test_it_is_what_the_file_would_draw(
    kind: str, attributes: dict[str, float], mean: float, deviation: float, like: str
) -> None:
    size: dict[str, Any] = {} if like else {"shape": [1, 4, 64, 64]}
    draws = node(f"{kind}{like}", "x" if like else "", "drawn", **attributes, **size)
    model = file([draws, node("Add", "x drawn", "y")], ("N", 4, 64, 64))
    found = weights(settled(model, "constant", SIZES).data)["drawn/noise"]
    assert (found.shape, found.dtype) == ((1, 4, 64, 64), np.float32)
    assert abs(found.mean() - mean) < 0.03 * deviation
    assert abs(found.std() / deviation - 1) < 0.03


def test_each_node_draws_its_own() -> None:
    nodes = [helper.make_node("RandomNormalLike", ["x"], [name]) for name in ("a", "b")]
    model = file([*nodes, node("Sub", "a b", "c"), node("Add", "x c", "y")], DEEP)
    found = weights(settled(model, "constant", SIZES).data)
    assert abs(found["a/noise"] - found["b/noise"]).min() > 0


def test_where_noise_is_joined_with_a_batch_each_picture_has_it() -> None:
    draws = node("RandomNormalLike", "x", "drawn")
    joined = file([draws, node("Concat", "x drawn", "both", axis=1), node("Relu", "both", "y")], DEEP)
    made = settled(joined, "constant", SIZES)
    assert "Expand" in kinds(made.data)
    found = run(made, 3)
    assert found.shape == (3, 8, 8, 8)
    np.testing.assert_array_equal(found[0, 4:], found[2, 4:])


def test_noise_alone_is_an_output() -> None:
    model = file([node("RandomNormalLike", "x", "y")], DEEP)
    found = run(settled(model, "constant", SIZES), 3)
    assert found.shape == (3, 4, 8, 8)
    np.testing.assert_array_equal(found[0], found[1])


def test_noise_of_any_size_is_no_constant() -> None:
    model, sizes = noisy(("N", 4, "H", "W")), {"N": 2, "H": 8, "W": 8}
    with pytest.raises(
        GantkError, match=r"noise of node `the RandomNormalLike` .* 2x1x8x8 and 3x1x16x16"
    ) as error:
        settled(model, "constant", sizes)
    assert error.value.hint is not None
    assert "--noise zero" in error.value.hint
    assert run(settled(model, "zero", sizes), 1, 20).shape == (1, 4, 20, 20)


def test_noise_of_each_row_is_not_taken_for_that_of_a_batch() -> None:
    """Its first axis grows with the pictures' height: one row's would do for all of them, and be another network's."""
    nodes = [
        node("ReduceMean", "x", "rows", axes=[0, 1], keepdims=0),
        node("RandomNormalLike", "rows", "drawn"),
        node("Add", "x drawn", "y"),
    ]
    with pytest.raises(GantkError, match="8x8 and 16x8"):
        settled(file(nodes, ("N", 4, "H", 8)), "constant", {"N": 2, "H": 8})


def test_a_file_that_draws_none_is_told_so() -> None:
    with pytest.raises(UsageError, match="draws no noise"):
        settled(file([node("Relu", "x", "y")]), "zero", SIZES)


def test_noise_in_a_branch_is_left(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("a", "b")]
    branches = {
        f"{name}_branch": helper.make_graph([node("RandomNormalLike", "x", out)], name, [], [value])
        for name, out, value in zip(("then", "else"), "ab", values, strict=True)
    }
    model = file([node("If", "yes", "y", **branches)], DEEP, yes=np.array(True))
    with pytest.raises(GantkError, match="draws noise in a branch or a loop"):
        settled(model, "constant", SIZES)
    lines: list[str] = []
    bundle = bundle_onnx(saved(tmp_path, model), tmp_path / "x.gantk", report=lines.append)
    assert bundle.read_file(bundle.manifest.variants[0].file) == model.data
    assert not any("--noise" in line for line in lines)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_other_precisions_are_made_of_it(tmp_path: Path, precision: str) -> None:
    path = saved(tmp_path, noisy())
    lines: list[str] = []
    with pytest.raises(GantkError, match="nothing to compare") as error:
        bundle_onnx(path, tmp_path / "x.gantk", precisions=(precision,))
    assert error.value.hint is not None
    assert error.value.hint.startswith("--noise constant draws the noise once")
    bundle = bundle_onnx(
        path,
        tmp_path / "x.gantk",
        precisions=(precision,),
        rewrites=False,
        noise="constant",
        report=lines.append,
    )
    assert [variant.precision for variant in bundle.manifest.variants] == ["fp32", precision]
    assert bundle.manifest.probe is not None
    assert Bundle.read(bundle.root).manifest.config == {"noise": "constant"}
    with gantk.open(bundle.root, precision="fp32") as runner:
        x = normal(1, 4, 8, 8)
        np.testing.assert_array_equal(runner.run({"x": x})["y"], runner.run({"x": x})["y"])


def test_without_being_asked_for_a_file_is_as_it_was(tmp_path: Path) -> None:
    model = noisy()
    lines: list[str] = []
    bundle = bundle_onnx(saved(tmp_path, model), tmp_path / "x.gantk", report=lines.append)
    assert bundle.read_file(bundle.manifest.variants[0].file) == model.data
    assert any("--noise constant draws the noise once" in line for line in lines)


def test_what_there_is_not_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'pink'"):
        bundle_onnx(saved(tmp_path, noisy()), tmp_path / "x.gantk", noise="pink")

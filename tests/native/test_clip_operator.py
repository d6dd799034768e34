# SPDX-License-Identifier: Apache-2.0
"""Bounds of pictures with channels last in ONNX Runtime, against NumPy, value by value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.runtime.backends.onnxruntime_session import CPU_ONLY
from native_sessions import load

Array = np.ndarray[Any, Any]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
LARGEST = float(np.finfo(np.float32).max)
INFINITE, NAN = float("inf"), float("nan")
# Around a vector, a run and a task.
SHAPES = [(1, 1, 1, 1), (3, 1, 1, 7), (2, 5, 7, 3), (2, 33, 40, 64), (1, 300, 301, 1), (2, 3, 5, 1030)]
BOUNDS: dict[str, dict[str, float]] = {
    "both": {"low": -0.3, "high": 0.7},  # Which no type but float32 has.
    "as ReLU6 has": {"low": 0.0, "high": 6.0},
    "the lower one": {"low": -0.3},
    "the upper one": {"high": 0.7},
    "none": {},
    "infinite": {"low": -INFINITE, "high": INFINITE},
    "crossed": {"low": 0.5, "high": -0.25},
    "the same": {"low": 0.1, "high": 0.1},
    "beyond all halves": {"low": -1e6, "high": 1e6},
}


def narrowed(array: Array, dtype: str) -> Array:
    """What a tensor of a type holds of some values, in float32."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(kind).astype(np.float32)


def clipped(features: Array, low: float = -LARGEST, high: float = LARGEST) -> Array:
    """By comparisons in float32, none of which NaN passes."""
    least, most = np.float32(low), np.float32(high)
    above = np.where(features < least, least, features)
    return np.where(above > most, most, above)


def draw(shape: tuple[int, ...], dtype: str = "float32") -> Array:
    """Values of a type; the last ones are special, as far as there are so many."""
    features = np.random.default_rng(sum(shape)).standard_normal(shape)
    special = np.array([7, 0.0, -0.0, NAN, -NAN, INFINITE, -INFINITE])[-features.size :]
    features.reshape(-1)[features.size - special.size :] = special
    return narrowed(features, dtype)


def session(
    library: Path | None, bounds: dict[str, Any], dtype: str = "float32", threads: int = 1, **more: Any
) -> Any:
    """What goes in and comes out is float32; without a library the node has its body."""
    nodes = [
        helper.make_node("Cast", ["features"], ["low"], to=TYPES[dtype]),
        helper.make_node("NhwcClip", ["low"], ["made"], domain=DOMAIN, **bounds),
        helper.make_node("Cast", ["made"], ["result"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("features", "result")]
    proto = helper.make_model(
        helper.make_graph(nodes, "bounds", ends[:1], ends[1:]),
        functions=bodies(OPSET) if library is None or more else [],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    return load(proto.SerializeToString(), library, threads, **more)


def assert_same(found: Array, wanted: Array) -> None:
    """With the signs of zeros."""
    np.testing.assert_array_equal(found, wanted)
    known = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(found[known]), np.signbit(wanted[known]))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", BOUNDS)
def test_values(library: Path, name: str, dtype: str) -> None:
    bounds = BOUNDS[name]
    sessions = [session(library, bounds, dtype, threads) for threads in (1, 3)]
    for shape in SHAPES:
        features = draw(shape, dtype)
        wanted = narrowed(clipped(features, **bounds), dtype)
        for each in sessions:
            assert_same(each.run(None, {"features": features})[0], wanted)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_not_a_number_bounds_nothing(library: Path, dtype: str) -> None:
    """ONNX leaves that open."""
    features = draw((1, 3, 5, 6), dtype)
    made = session(library, {"low": NAN, "high": 0.5}, dtype).run(None, {"features": features})[0]
    assert_same(made, clipped(features, -INFINITE, 0.5))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", BOUNDS)
def test_the_body(name: str, dtype: str) -> None:
    """In bfloat16 too, which ONNX Runtime only casts."""
    bounds = BOUNDS[name]
    made = session(None, bounds, dtype)
    for shape in SHAPES[:3]:
        features = draw(shape, dtype)
        wanted = narrowed(clipped(features, **bounds), dtype)
        assert_same(made.run(None, {"features": features})[0], wanted)


@pytest.mark.parametrize("name", BOUNDS)
def test_as_onnxruntimes_own(library: Path, name: str) -> None:
    given = {key: BOUNDS[name].get(key) for key in ("low", "high")}
    weights = [
        numpy_helper.from_array(np.float32(value), key) for key, value in given.items() if value is not None
    ]
    inputs = ["features", *(key if value is not None else "" for key, value in given.items())]
    ends = [helper.make_tensor_value_info(key, TensorProto.FLOAT, None) for key in ("features", "result")]
    graph = helper.make_graph(
        [helper.make_node("Clip", inputs, ["result"])], "own", ends[:1], ends[1:], weights
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)
    feeds = {"features": draw((2, 5, 7, 3))}
    (own,) = load(proto.SerializeToString(), None).run(None, feeds)
    assert_same(session(library, BOUNDS[name]).run(None, feeds)[0], own)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_value_of_a_narrow_type(library: Path, dtype: str) -> None:
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.float16
    features = np.arange(2**16, dtype=np.uint16).view(kind).astype(np.float32).reshape(1, 256, 256, 1)
    if (
        dtype == "bfloat16"
    ):  # One instruction rounds, which takes what is below the least normal number for 0.
        features[np.abs(features) < np.finfo(np.float32).tiny] = 0
    made = session(library, {"low": -1.5, "high": 300.1}, dtype)
    wanted = narrowed(clipped(features, -1.5, 300.1), dtype)
    assert_same(made.run(None, {"features": features})[0], wanted)


@pytest.mark.parametrize("shape", [(1, 3, 5, 6), (2, 40, 41, 64)], ids=str)
@pytest.mark.parametrize("read_again", [False, True])
def test_features_are_written_over_only_where_nothing_reads_them_again(
    library: Path, shape: tuple[int, ...], read_again: bool
) -> None:
    nodes = [
        helper.make_node("Neg", ["x"], ["features"]),
        helper.make_node("NhwcClip", ["features"], ["bounded"], domain=DOMAIN, low=-0.5, high=0.25),
        helper.make_node("Sub", ["bounded", "features" if read_again else "zero"], ["result"]),
    ]
    sizes = {"x": shape, "zero": (), **dict.fromkeys(("features", "bounded", "result"), shape)}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()
    }
    graph = helper.make_graph(
        nodes,
        "places",
        [values["x"], values["zero"]],
        [values["result"]],
        value_info=[values["features"], values["bounded"]],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (found,) = load(proto.SerializeToString(), library).run(None, {"x": x, "zero": np.array(0, np.float32)})
    np.testing.assert_array_equal(found, clipped(-x, -0.5, 0.25) - (-x if read_again else 0))


def test_sessions_for_gpus_keep_the_body(library: Path, tmp_path: Path) -> None:
    session(library, {}, optimised=tmp_path / "optimised.onnx", settings={CPU_ONLY: "0"})
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert "Clip" in left and "NhwcClip" not in left


@pytest.mark.parametrize(
    ("bounds", "text"),
    [
        ({"low": 1}, "the attribute `low` is no float"),
        ({"high": "6"}, "the attribute `high` is no float"),
        ({"high": [6.0]}, "the attribute `high` is no float"),
    ],
)
def test_bad_bounds(library: Path, bounds: dict[str, Any], text: str) -> None:
    with pytest.raises(Exception, match=text):
        session(library, bounds)


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4, 5, 6), (2, 0, 4, 5)], ids=str)
def test_other_shapes_are_refused(library: Path, shape: tuple[int, ...]) -> None:
    text = rf"features have shape \[{', '.join(map(str, shape))}\]; N x H x W x C is wanted"
    with pytest.raises(Exception, match=text):
        session(library, {}).run(None, {"features": np.ones(shape, np.float32)})

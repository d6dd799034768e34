# SPDX-License-Identifier: Apache-2.0
"""Group normalisation with channels last in ONNX Runtime, against float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.runtime.backends.onnxruntime_session import CPU_ONLY
from native_sessions import load

Array = np.ndarray[Any, Any]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# Of a result, its own rounding, twice: what is near a tie may go the other way.
ROUNDING = {"float32": 0.0, "float16": 2.0**-10, "bfloat16": 2.0**-7}
ENDINGS = ("", "Silu")
# Around a vector, a run and a task, and groups: N x H x W x C.
SHAPES = [
    ((1, 1, 1, 1), 1),
    ((3, 1, 1, 8), 4),
    ((2, 5, 7, 6), 3),
    ((2, 33, 40, 64), 32),
    ((1, 300, 301, 1), 1),
    ((2, 150, 149, 3), 1),
    ((4, 2, 2, 512), 32),
    ((2, 3, 5, 1030), 103),
    ((1, 64, 61, 320), 32),
    ((1, 17, 1, 5000), 2),
]


def narrowed(array: Array, dtype: str) -> Array:
    """What a tensor of a type holds of some values, in float32."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return array.astype(kind).astype(np.float32)


def draw(
    shape: tuple[int, int, int, int], dtype: str = "float32", mean: float = 0.5, deviation: float = 1
) -> dict[str, Array]:
    """Inputs of a node."""
    rng = np.random.default_rng(sum(shape))
    return {
        "features": narrowed(mean + deviation * rng.standard_normal(shape), dtype),
        "scale": rng.standard_normal(shape[3]).astype(np.float32),
        "offset": rng.standard_normal(shape[3]).astype(np.float32),
    }


def session(
    library: Path | None, ending: str, dtype: str = "float32", threads: int = 1, **attributes: Any
) -> Any:
    """What goes in and comes out is float32; without a library the node has its body."""
    proto = model(ending, dtype, **attributes)
    if library is None:
        proto.functions.extend(bodies(OPSET))
    return load(proto.SerializeToString(), library, threads)


def model(ending: str, dtype: str, **attributes: Any) -> onnx.ModelProto:
    names = ["features", "scale", "offset"]
    nodes = [
        helper.make_node("Cast", ["features"], ["low"], to=TYPES[dtype]),
        helper.make_node(
            f"NhwcGroupNorm{ending}", ["low", *names[1:]], ["made"], domain=DOMAIN, **attributes
        ),
        helper.make_node("Cast", ["made"], ["result"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "group norm",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


def reference(
    feeds: dict[str, Array], groups: int, ending: str = "", epsilon: float = 1e-5
) -> tuple[Array, float]:
    """The result in float64, and the size of its largest terms."""
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    parts = wide["features"].reshape(*wide["features"].shape[:3], groups, -1)
    centred = parts - parts.mean((1, 2, 4), keepdims=True)
    normal = centred / np.sqrt((centred**2).mean((1, 2, 4), keepdims=True) + epsilon)
    scaled = normal.reshape(wide["features"].shape) * wide["scale"]
    made, size = scaled + wide["offset"], (np.abs(scaled) + np.abs(wide["offset"])).max()
    return made / (1 + np.exp(-made)) if ending == "Silu" else made, float(size)


def assert_close(found: Array, feeds: dict[str, Array], groups: int, dtype: str, **more: Any) -> None:
    """As of instance normalisation: a mean, in deviations, is rounded to float32."""
    mean = more.pop("mean", 0.5)
    wanted, size = reference(feeds, groups, **more)
    assert found.shape == wanted.shape
    tolerance = (2e-6 + 2.0**-23 * abs(mean)) * size + ROUNDING[dtype] * np.abs(wanted)
    assert (np.abs(found - wanted) <= tolerance + 2.0**-25).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(("shape", "groups"), SHAPES, ids=str)
def test_values(
    library: Path, shape: tuple[int, int, int, int], groups: int, ending: str, dtype: str
) -> None:
    feeds = draw(shape, dtype)
    made = [session(library, ending, dtype, threads, groups=groups).run(None, feeds)[0] for threads in (1, 3)]
    assert_close(made[0], feeds, groups, dtype, ending=ending)
    np.testing.assert_array_equal(made[0], made[1])  # The number of threads decides nothing.


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20)),
    groups=st.integers(1, 12),
    each=st.integers(1, 9),
    ending=st.sampled_from(ENDINGS),
    dtype=st.sampled_from(list(TYPES)),
    mean=st.sampled_from([0.0, -3.0]),
)
def test_any_shape(
    library: Path,
    sizes: tuple[int, int, int],
    groups: int,
    each: int,
    ending: str,
    dtype: str,
    mean: float,
) -> None:
    feeds = draw((*sizes, groups * each), dtype, mean)
    (found,) = session(library, ending, dtype, 2, groups=groups, epsilon=1e-3).run(None, feeds)
    assert_close(found, feeds, groups, dtype, ending=ending, epsilon=1e-3, mean=mean)


@pytest.mark.parametrize(("channels", "groups"), [(32, 8), (33, 11)])
@pytest.mark.parametrize(("mean", "deviation"), [(100.0, 1.0), (-3000.0, 2.0), (0.0, 1e-3), (5.0, 1e4)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_large_mean_costs_only_its_own_rounding(
    library: Path, dtype: str, mean: float, deviation: float, channels: int, groups: int
) -> None:
    """Of pictures that several tasks share."""
    feeds = draw((2, 64, 70, channels), dtype, mean, deviation)
    (found,) = session(library, "", dtype, 2, groups=groups).run(None, feeds)
    assert_close(found, feeds, groups, dtype, mean=mean / deviation)


def test_channels_of_a_group_may_differ_much(library: Path) -> None:
    feeds = draw((1, 40, 41, 8))
    feeds["features"] *= np.float32([1, 1e3, 1e-3, 1, 5, 5, 1, 1])
    feeds["features"] += np.float32([0, 200, 0, -7, 1e3, 1001, 0, 1])
    (found,) = session(library, "", groups=2).run(None, feeds)
    assert_close(found, feeds, 2, "float32", mean=1)


def test_values_that_are_alike_become_the_offset(library: Path) -> None:
    feeds = draw((2, 9, 9, 12)) | {"features": np.full((2, 9, 9, 12), 7, np.float32)}
    (found,) = session(library, "", groups=4).run(None, feeds)
    np.testing.assert_allclose(found, np.broadcast_to(feeds["offset"], found.shape), atol=1e-3)


def test_what_is_not_finite_spoils_its_group_alone(library: Path) -> None:
    feeds = draw((2, 5, 5, 12))
    feeds["features"][0, 0, 0, 3] = np.nan
    feeds["features"][1, 2, 2, 11] = np.inf
    for ending in ENDINGS:
        (found,) = session(library, ending, groups=4).run(None, feeds)
        spoiled = np.zeros(found.shape, bool)
        spoiled[0, ..., 3:6] = spoiled[1, ..., 9:] = True
        np.testing.assert_array_equal(np.isfinite(found), ~spoiled)


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_body(ending: str, dtype: str) -> None:
    for shape, groups in [((1, 1, 1, 1), 1), ((2, 5, 7, 6), 3), ((2, 33, 40, 64), 32)]:
        feeds = draw(shape, dtype)
        (found,) = session(None, ending, dtype, groups=groups).run(None, feeds)
        assert_close(found, feeds, groups, dtype, ending=ending)


def test_defaults_are_those_of_the_body(library: Path) -> None:
    feeds = draw((1, 3, 4, 6), mean=0, deviation=1e-3)
    native, body = (session(used, "", groups=2).run(None, feeds)[0] for used in (library, None))
    np.testing.assert_allclose(native, body, atol=2e-6)


def test_sessions_for_gpus_keep_the_body(library: Path, tmp_path: Path) -> None:
    proto = model("Silu", "float32", groups=4)
    proto.functions.extend(bodies(OPSET))
    path = tmp_path / "optimised.onnx"
    load(proto.SerializeToString(), library, optimised=path, settings={CPU_ONLY: "0"})
    left = {node.op_type for node in onnx.load(path).graph.node}
    assert "ReduceMean" in left and "NhwcGroupNormSilu" not in left


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("features", (2, 8), r"features have shape \[2, 8\]; N x H x W x C is wanted"),
        ("features", (2, 3, 3, 6), r"\[2, 3, 3, 6\]; a multiple of 4 channels, the groups, is wanted, not 6"),
        ("scale", (4,), r"the scale has shape \[4\]; \[8\] is wanted"),
        ("offset", (1, 8), r"the offset has shape \[1, 8\]; \[8\] is wanted"),
    ],
)
def test_bad_input(library: Path, name: str, shape: tuple[int, ...], text: str) -> None:
    feeds = draw((2, 3, 3, 8)) | {name: np.ones(shape, np.float32)}
    with pytest.raises(Exception, match=text):
        session(library, "", groups=4).run(None, feeds)


@pytest.mark.parametrize(
    ("attributes", "text"),
    [
        ({}, "groups is 0; at least 1 is wanted"),
        ({"groups": -3}, "groups is -3; at least 1 is wanted"),
        ({"groups": 4.0}, "the attribute `groups` is no int"),
        ({"groups": 4, "epsilon": -1.0}, "epsilon is -1.*; a number of at least 0 is wanted"),
        ({"groups": 4, "epsilon": float("nan")}, "epsilon is nan; a number of at least 0 is wanted"),
    ],
)
def test_bad_attributes(library: Path, attributes: dict[str, Any], text: str) -> None:
    with pytest.raises(Exception, match=text):
        session(library, "", **attributes)

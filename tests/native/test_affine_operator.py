# SPDX-License-Identifier: Apache-2.0
"""What is computed value by value with channels last in ONNX Runtime, against float64."""

from __future__ import annotations

import itertools
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
# Of a result, its own rounding.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
# By what comes after the name: the inputs that it adds.
ENDINGS = {
    "": (),
    "Sum": ("others",),
    "PRelu": ("slopes",),
    "SumPRelu": ("others", "slopes"),
    "Silu": (),
    "SumSilu": ("others",),
}
# Around a vector, a run and a task: of pixels, of channels.
SHAPES = [
    (1, 1, 1, 1),
    (3, 1, 1, 7),
    (2, 5, 7, 3),
    (2, 33, 40, 64),
    (1, 300, 301, 1),
    (2, 150, 149, 3),
    (4, 2, 2, 512),
    (2, 3, 5, 1030),
]


def narrowed(array: Array, dtype: str) -> Array:
    """What a tensor of a type holds of some values, in float32."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return array.astype(kind).astype(np.float32)


def draw(
    shape: tuple[int, int, int, int],
    ending: str,
    dtype: str = "float32",
    own: tuple[bool, bool] = (False, False),
    others: tuple[bool, bool] = (True, True),
) -> dict[str, Array]:
    """Inputs of a node.

    Args:
        shape: Of the features, N x H x W x C.
        ending: What comes after the name.
        dtype: Of the features and others, which it holds.
        own: Whether each picture has factors, and offsets, of its own.
        others: Whether each picture, and each channel, has others of its own.
    """
    rng = np.random.default_rng(sum(shape))
    count, height, width, channels = shape
    added = (count if others[0] else 1, height, width, channels if others[1] else 1)
    feeds = {
        "features": narrowed(rng.standard_normal(shape), dtype),
        "factors": rng.standard_normal((count if own[0] else 1, channels)).astype(np.float32),
        "offsets": rng.standard_normal((count if own[1] else 1, channels)).astype(np.float32),
        "others": narrowed(rng.standard_normal(added), dtype),
        "slopes": (0.3 * rng.standard_normal(channels)).astype(np.float32),
    }
    return {name: feeds[name] for name in ("features", "factors", "offsets", *ENDINGS[ending])}


def session(library: Path | None, ending: str, dtype: str = "float32", threads: int = 1, **more: Any) -> Any:
    """What goes in and comes out is float32; without a library the node has its body."""
    names = ["features", "factors", "offsets", *ENDINGS[ending]]
    low = [name for name in names if name in ("features", "others")]
    nodes = [helper.make_node("Cast", [name], [f"{name}.low"], to=TYPES[dtype]) for name in low]
    inputs = [f"{name}.low" if name in low else name for name in names]
    nodes.append(helper.make_node(f"NhwcAffine{ending}", inputs, ["made"], domain=DOMAIN))
    nodes.append(helper.make_node("Cast", ["made"], ["result"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        "affine",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
    )
    proto = helper.make_model(
        graph,
        functions=bodies(OPSET) if library is None or more else [],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    return load(proto.SerializeToString(), library, threads, **more)


def reference(feeds: dict[str, Array], ending: str) -> tuple[Array, Array]:
    """The result in float64, and the sum of its terms' sizes."""
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    scaled = wide["features"] * wide["factors"][:, None, None]
    offsets, others = wide["offsets"][:, None, None], wide.get("others", np.zeros(()))
    made, size = scaled + offsets + others, abs(scaled) + abs(offsets) + abs(others)
    if "Silu" in ending:
        return made / (1 + np.exp(-made)), size
    return np.where(made < 0, made * wide["slopes"], made) if "slopes" in wide else made, size


def assert_close(found: Array, feeds: dict[str, Array], ending: str, dtype: str) -> None:
    wanted, size = reference(feeds, ending)
    assert found.shape == wanted.shape
    assert (np.abs(found - wanted) <= 2.0**-22 * size + ROUNDING[dtype] * np.abs(wanted) + 2.0**-25).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(library: Path, shape: tuple[int, int, int, int], ending: str, dtype: str) -> None:
    sessions = [session(library, ending, dtype, threads) for threads in (1, 3)]
    for own in itertools.product((False, True), repeat=2):
        for others in [(True, True), (False, True), (True, False), (False, False)]:
            feeds = draw(shape, ending, dtype, own, others)
            made = [each.run(None, feeds)[0] for each in sessions]
            assert_close(made[0], feeds, ending, dtype)
            np.testing.assert_array_equal(made[0], made[1])  # The number of threads decides nothing.
            if "Sum" not in ending:
                break


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.integers(1, 70)),
    ending=st.sampled_from(list(ENDINGS)),
    dtype=st.sampled_from(list(TYPES)),
    own=st.tuples(st.booleans(), st.booleans()),
    others=st.tuples(st.booleans(), st.booleans()),
)
def test_any_shape(
    library: Path,
    shape: tuple[int, int, int, int],
    ending: str,
    dtype: str,
    own: tuple[bool, bool],
    others: tuple[bool, bool],
) -> None:
    feeds = draw(shape, ending, dtype, own, others)
    assert_close(session(library, ending, dtype, 2).run(None, feeds)[0], feeds, ending, dtype)


@pytest.mark.parametrize("own", list(itertools.product((False, True), repeat=2)))
@pytest.mark.parametrize("ending", ENDINGS)
def test_the_body(ending: str, own: tuple[bool, bool]) -> None:
    for dtype in ("float32", "float16"):
        for others in [(True, True), (False, False)]:
            feeds = draw((2, 5, 7, 3), ending, dtype, own, others)
            assert_close(session(None, ending, dtype).run(None, feeds)[0], feeds, ending, dtype)


@pytest.mark.parametrize("shape", [(1, 3, 5, 6), (2, 40, 41, 64)], ids=str)
@pytest.mark.parametrize("read_again", [False, True])
def test_features_are_written_over_only_where_nothing_reads_them_again(
    library: Path, shape: tuple[int, int, int, int], read_again: bool
) -> None:
    """ONNX Runtime hands over their memory where it knows that the result is as large."""
    nodes = [
        helper.make_node("Neg", ["x"], ["features"]),
        helper.make_node("NhwcAffine", ["features", "factors", "offsets"], ["scaled"], domain=DOMAIN),
        helper.make_node("NhwcPRelu", ["scaled", "slopes"], ["rectified"], domain=DOMAIN),
        helper.make_node("Sub", ["rectified", "features" if read_again else "zero"], ["result"]),
    ]
    sizes = {"x": shape, "factors": (1, shape[3]), "offsets": (1, shape[3]), "slopes": shape[3:], "zero": ()}
    feeds = {
        name: np.random.default_rng(len(size)).standard_normal(size).astype(np.float32)
        for name, size in sizes.items()
    }
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in {
            **sizes,
            **dict.fromkeys(("features", "scaled", "rectified", "result"), shape),
        }.items()
    }
    graph = helper.make_graph(
        nodes,
        "places",
        [values[name] for name in sizes],
        [values["result"]],
        value_info=[values[name] for name in ("features", "scaled", "rectified")],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (found,) = load(proto.SerializeToString(), library).run(None, feeds)
    scaled = -feeds["x"] * feeds["factors"] + feeds["offsets"]
    rectified = np.where(scaled < 0, scaled * feeds["slopes"], scaled)
    np.testing.assert_allclose(found, rectified + (feeds["x"] if read_again else -feeds["zero"]), atol=2e-6)


@pytest.mark.parametrize("dtype", TYPES)
def test_what_is_not_finite_stays(library: Path, dtype: str) -> None:
    feeds = draw((1, 3, 5, 6), "PRelu", dtype)
    feeds["slopes"][:] = 0
    feeds["factors"][:] = 1
    feeds["offsets"][:] = 0
    feeds["features"][0, 0, 0] = [np.nan, -np.nan, np.inf, 1, -1, 0]
    (made,) = session(library, "PRelu", dtype).run(None, feeds)
    np.testing.assert_array_equal(made[0, 0, 0], [np.nan, np.nan, np.inf, 1, 0, 0])
    assert np.isfinite(made[0, 1:]).all()


def silu(library: Path | None, values: Array, dtype: str) -> Array:
    feeds = {
        "features": values.reshape(1, 1, -1, 1),
        "factors": np.ones((1, 1), np.float32),
        "offsets": np.full((1, 1), -0.0, np.float32),  # Which leaves the sign of zero.
    }
    made: Array = session(library, "Silu", dtype).run(None, feeds)[0]
    return made.reshape(-1)


@pytest.mark.parametrize("dtype", TYPES)
def test_silu_over_the_whole_range(library: Path, dtype: str) -> None:
    """Errors are relative, even where the result is all but 0."""
    far = np.geomspace(1e-30, 3e38 if dtype != "float16" else 6e4, 20000, dtype=np.float32)
    near = np.linspace(-100, 100, 100003, dtype=np.float32)
    values = narrowed(np.concatenate([near, far, -far]), dtype)
    found = silu(library, values, dtype)
    wide = values.astype(np.float64)
    with np.errstate(over="ignore"):
        wanted = wide / (1 + np.exp(-wide))
    least = {"float32": 3e-37, "float16": 2.0**-25, "bfloat16": 3e-37}[dtype]
    assert (np.abs(found - wanted) <= (6e-7 + ROUNDING[dtype]) * np.abs(wanted) + least).all()
    assert (found[values < -200] == 0).all() and np.signbit(found[values < -200]).all()


@pytest.mark.parametrize("dtype", TYPES)
def test_silu_of_what_is_not_finite(library: Path, dtype: str) -> None:
    """Of -infinity it is -infinity times 0."""
    found = silu(library, np.array([np.nan, -np.nan, np.inf, -np.inf, 0, -0.0, 3], np.float32), dtype)
    np.testing.assert_array_equal(found[:6], [np.nan, np.nan, np.inf, np.nan, 0, 0])
    assert list(np.signbit(found[4:6])) == [False, True]
    assert found[6] == pytest.approx(2.857722, rel=2.0**-8)


@pytest.mark.parametrize(("ending", "part"), [("SumPRelu", "PRelu"), ("SumSilu", "Add")])
def test_sessions_for_gpus_keep_the_body(library: Path, tmp_path: Path, ending: str, part: str) -> None:
    session(library, ending, optimised=tmp_path / "optimised.onnx", settings={CPU_ONLY: "0"})
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert part in left and f"NhwcAffine{ending}" not in left


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("features", (2, 3), r"features have shape \[2, 3\]; N x H x W x C is wanted"),
        ("factors", (5,), r"factors have shape \[5\]; \[1, 5\] or \[2, 5\] is wanted"),
        ("factors", (3, 5), r"factors have shape \[3, 5\]; \[1, 5\] or \[2, 5\] is wanted"),
        ("offsets", (1, 4), r"offsets have shape \[1, 4\]; \[1, 5\] or \[2, 5\] is wanted"),
        ("others", (3, 4, 5), r"others have shape \[3, 4, 5\]; \[2, 3, 4, 5\] is wanted, whose first and last size"),
        ("others", (2, 3, 1, 5), r"others have shape \[2, 3, 1, 5\]; \[2, 3, 4, 5\] is wanted"),
        ("others", (2, 3, 4, 2), r"others have shape \[2, 3, 4, 2\]; \[2, 3, 4, 5\] is wanted"),
        ("slopes", (1,), r"slopes have shape \[1\]; \[5\] is wanted"),
        ("slopes", (1, 5), r"slopes have shape \[1, 5\]; \[5\] is wanted"),
    ],
)  # fmt: skip
def test_bad_input(library: Path, name: str, shape: tuple[int, ...], text: str) -> None:
    feeds = draw((2, 3, 4, 5), "SumPRelu") | {name: np.ones(shape, np.float32)}
    with pytest.raises(Exception, match=text):
        session(library, "SumPRelu").run(None, feeds)


def test_one_picture_has_one_shape_of_factors(library: Path) -> None:
    feeds = draw((1, 3, 4, 5), "") | {"factors": np.ones((2, 5), np.float32)}
    with pytest.raises(Exception, match=r"factors have shape \[2, 5\]; \[1, 5\] is wanted"):
        session(library, "").run(None, feeds)

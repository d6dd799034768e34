# SPDX-License-Identifier: Apache-2.0
"""What is computed pixel by pixel over channels in ONNX Runtime, normalisation and gates, against float64."""

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
# Of a result, its own rounding.
ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
GATES = ("NhwcGate", "NhwcGlu")
NORMS = ("NhwcLayerNorm", "NhwcRmsNorm")
INPUTS = {**dict.fromkeys(NORMS, ("features", "scale", "offset")), **dict.fromkeys(GATES, ("features",))}
# Around a vector, a group of pixels, a run and a task: of pixels, of channels; those of a gate are twice as many.
SHAPES = [
    (1, 1, 1, 1),
    (3, 1, 1, 7),
    (2, 5, 7, 3),
    (1, 9, 11, 16),
    (1, 3, 5, 17),
    (2, 33, 40, 64),
    (1, 300, 301, 1),
    (2, 150, 149, 3),
    (1, 67, 71, 24),
    (2, 3, 5, 1030),
    (1, 1, 2, 70000),
]


def narrowed(array: Array, dtype: str) -> Array:
    """What a tensor of a type holds of some values, in float32."""
    kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else np.dtype(dtype)
    return array.astype(kind).astype(np.float32)


def draw(shape: tuple[int, int, int, int], dtype: str = "float32", mean: float = 0.0) -> dict[str, Array]:
    """Inputs of an NhwcLayerNorm, whose features are what the type holds."""
    rng = np.random.default_rng(sum(shape))
    return {
        "features": narrowed(rng.standard_normal(shape) + mean, dtype),
        "scale": rng.standard_normal(shape[3]).astype(np.float32),
        "offset": rng.standard_normal(shape[3]).astype(np.float32),
    }


def draw_halves(shape: tuple[int, int, int, int], dtype: str = "float32") -> dict[str, Array]:
    """The input of a gate that makes a shape."""
    return {"features": draw((*shape[:3], 2 * shape[3]), dtype)["features"]}


def session(
    library: Path | None,
    operator: str,
    dtype: str = "float32",
    threads: int = 1,
    epsilon: float | None = None,
    **more: Any,
) -> Any:
    """What goes in and comes out is float32; without a library the node has its body."""
    names = INPUTS[operator]
    options = {} if epsilon is None else {"epsilon": epsilon}
    nodes = [
        helper.make_node("Cast", ["features"], ["low"], to=TYPES[dtype]),
        helper.make_node(operator, ["low", *names[1:]], ["made"], domain=DOMAIN, **options),
        helper.make_node("Cast", ["made"], ["result"], to=TensorProto.FLOAT),
    ]
    graph = helper.make_graph(
        nodes,
        "pixels",
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


def assert_normalized(
    found: Array, feeds: dict[str, Array], dtype: str, epsilon: float = 1e-5, *, centred: bool = True
) -> None:
    """Off by its rounding, and by that of the mean, in float32."""
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    mean = wide["features"].mean(axis=3, keepdims=True) * centred
    deviation = np.sqrt(((wide["features"] - mean) ** 2).mean(axis=3, keepdims=True) + epsilon)
    scaled = (wide["features"] - mean) / deviation * wide["scale"]
    wanted = scaled + wide["offset"]
    lost = np.abs(scaled) + np.abs(wide["offset"]) + (1 + np.abs(mean)) / deviation * np.abs(wide["scale"])
    assert found.shape == wanted.shape
    # Sums of tens of thousands of squares that have few digits round alike.
    own = 2.0**-21 if centred else 2.0**-20
    assert (np.abs(found - wanted) <= own * lost + ROUNDING[dtype] * np.abs(wanted) + 2.0**-25).all()


def assert_gated(found: Array, features: Array, dtype: str, operator: str) -> None:
    """Off by its rounding, and by that of the sigmoid, in float32."""
    first, second = np.split(features.astype(np.float64), 2, axis=3)
    wanted = first * second if operator == "NhwcGate" else first / (1 + np.exp(-second))
    lost = ROUNDING[dtype] + (5e-7 if operator == "NhwcGlu" else 0)
    assert found.shape == wanted.shape
    assert (np.abs(found - wanted) <= lost * np.abs(wanted) + 2.0**-25).all()


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(library: Path, shape: tuple[int, int, int, int], dtype: str) -> None:
    for operator, feeds in {
        **dict.fromkeys(NORMS, draw(shape, dtype)),
        **dict.fromkeys(GATES, draw_halves(shape, dtype)),
    }.items():
        made = [session(library, operator, dtype, threads).run(None, feeds)[0] for threads in (1, 3)]
        if operator in GATES:
            assert_gated(made[0], feeds["features"], dtype, operator)
        else:
            assert_normalized(made[0], feeds, dtype, centred=operator == "NhwcLayerNorm")
        np.testing.assert_array_equal(made[0], made[1])  # The number of threads decides nothing.


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    shape=st.tuples(st.integers(1, 4), st.integers(1, 20), st.integers(1, 20), st.integers(1, 70)),
    dtype=st.sampled_from(list(TYPES)),
    mean=st.sampled_from([0.0, -3.0, 100.0]),
    epsilon=st.sampled_from([1e-6, 1e-5, 0.1]),
)
def test_any_shape(
    library: Path, shape: tuple[int, int, int, int], dtype: str, mean: float, epsilon: float
) -> None:
    feeds = draw(shape, dtype, mean)
    for operator in NORMS:
        (made,) = session(library, operator, dtype, 2, epsilon).run(None, feeds)
        assert_normalized(made, feeds, dtype, epsilon, centred=operator == "NhwcLayerNorm")
    feeds = draw_halves(shape, dtype)
    for operator in GATES:
        (made,) = session(library, operator, dtype, 2).run(None, feeds)
        assert_gated(made, feeds["features"], dtype, operator)


@pytest.mark.parametrize("channels", [3, 32, 1000])
def test_a_large_mean_costs_no_precision(library: Path, channels: int) -> None:
    """Squares of 100 would leave a variance of 1 with three digits."""
    feeds = draw((1, 30, 30, channels), mean=100.0)
    feeds |= {"scale": np.ones(channels, np.float32), "offset": np.zeros(channels, np.float32)}
    (made,) = session(library, "NhwcLayerNorm").run(None, feeds)
    wide = feeds["features"].astype(np.float64)
    wanted = (wide - wide.mean(axis=3, keepdims=True)) / np.sqrt(wide.var(axis=3, keepdims=True) + 1e-5)
    assert np.abs(made - wanted).max() < (
        3e-4 if channels == 3 else 3e-5
    )  # Of three, deviations may be small.


def test_equal_channels_become_the_offset(library: Path) -> None:
    feeds = draw((2, 3, 5, 48))
    feeds["features"][:] = feeds["features"][..., :1]
    (made,) = session(library, "NhwcLayerNorm").run(None, feeds)
    np.testing.assert_allclose(made, np.broadcast_to(feeds["offset"], made.shape), atol=2e-4)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("epsilon", [None, 0.1])
def test_the_bodies(epsilon: float | None, dtype: str) -> None:
    feeds = draw((2, 5, 7, 6), dtype)
    (made,) = session(None, "NhwcLayerNorm", dtype, epsilon=epsilon).run(None, feeds)
    assert_normalized(made, feeds, dtype, epsilon or 1e-5)
    feeds = draw_halves((2, 5, 7, 3), dtype)
    (made,) = session(None, "NhwcGate", dtype).run(None, feeds)
    assert_gated(made, feeds["features"], dtype, "NhwcGate")


@pytest.mark.parametrize("dtype", TYPES)
def test_the_body_of_a_gated_linear_unit(library: Path, dtype: str) -> None:
    """It is float32 inside in every type; ONNX Runtime's sigmoid is right to 1e-7 of 1."""
    feeds = draw_halves((2, 5, 7, 300), dtype)
    found, native = (session(place, "NhwcGlu", dtype).run(None, feeds)[0] for place in (None, library))
    first, second = np.split(feeds["features"].astype(np.float64), 2, axis=3)
    wanted = first / (1 + np.exp(-second))
    assert (
        np.abs(found - wanted) <= ROUNDING[dtype] * np.abs(wanted) + 2e-7 * np.abs(first) + 2.0**-25
    ).all()
    np.testing.assert_allclose(native, found, rtol=2.01 * ROUNDING[dtype] + 5e-7, atol=1e-6)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [1, 40])  # Less than a vector, and more.
def test_a_gated_linear_unit_of_what_is_not_finite(library: Path, channels: int, dtype: str) -> None:
    """What the product of numbers is, with a sigmoid of 0 or 1 of infinities."""
    inf, nan = np.inf, np.nan
    first = [nan, -nan, 2, -2, nan, 3, -3, 3, -3, inf, -inf, inf, -inf, inf, 0, -0.0]
    second = [1, 1, nan, -nan, nan, inf, inf, -inf, -inf, inf, 1, -3, -inf, nan, 5, -inf]
    halves = np.float32([first, second]).T[None, None, :, :, None]
    features = np.broadcast_to(halves, (*halves.shape[:4], channels)).reshape(1, 1, len(first), 2 * channels)
    (made,) = session(library, "NhwcGlu", dtype).run(None, {"features": features})
    wanted = np.float32([nan, nan, nan, nan, nan, 3, -3, 0, -0.0, inf, -inf, inf, nan, nan, 0, -0.0])
    wanted = np.broadcast_to(wanted[:, None], (len(first), channels))
    np.testing.assert_array_equal(made[0, 0], wanted)
    numbers = ~np.isnan(wanted)
    np.testing.assert_array_equal(np.signbit(made[0, 0][numbers]), np.signbit(wanted[numbers]))


@pytest.mark.parametrize("channels", [5, 40, 64])
@pytest.mark.parametrize("read_again", [False, True])
def test_features_are_written_over_only_where_nothing_reads_them_again(
    library: Path, channels: int, read_again: bool
) -> None:
    shape = (2, 20, 21, channels)
    nodes = [
        helper.make_node("Neg", ["x"], ["features"]),
        helper.make_node("NhwcLayerNorm", ["features", "scale", "offset"], ["normal"], domain=DOMAIN),
        helper.make_node("Sub", ["normal", "features" if read_again else "zero"], ["result"]),
    ]
    sizes = {"x": shape, "scale": (channels,), "offset": (channels,), "zero": ()}
    values = {
        name: helper.make_tensor_value_info(name, TensorProto.FLOAT, size)
        for name, size in {**sizes, **dict.fromkeys(("features", "normal", "result"), shape)}.items()
    }
    graph = helper.make_graph(
        nodes,
        "places",
        [values[name] for name in sizes],
        [values["result"]],
        value_info=[values["features"], values["normal"]],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    feeds = draw(shape)
    (normal,) = session(library, "NhwcLayerNorm").run(None, feeds)
    features = feeds.pop("features")
    feeds |= {"x": -features, "zero": np.zeros((), np.float32)}
    (made,) = load(proto.SerializeToString(), library).run(None, feeds)
    np.testing.assert_array_equal(made, normal - features if read_again else normal)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("channels", [6, 40])
def test_what_is_not_finite_spoils_its_pixel_alone(library: Path, channels: int, dtype: str) -> None:
    feeds = draw((1, 3, 5, channels), dtype)
    feeds["features"][0, 1, 1:3, -1] = [np.nan, np.inf]
    (made,) = session(library, "NhwcLayerNorm", dtype).run(None, feeds)
    spoilt = np.zeros((1, 3, 5), bool)
    spoilt[0, 1, 1:3] = True
    np.testing.assert_array_equal(np.isnan(made).any(axis=3), spoilt)
    assert np.isnan(made[0, 1, 1]).all()
    for operator, pixels in {"NhwcGate": (1, 2), "NhwcGlu": (1,)}.items():  # The sigmoid of infinity is 1.
        (gated,) = session(library, operator, dtype).run(None, {"features": feeds["features"]})
        np.testing.assert_array_equal(
            np.argwhere(~np.isfinite(gated)), [[0, 1, x, channels // 2 - 1] for x in pixels]
        )


@pytest.mark.parametrize(
    ("operator", "standard"),
    [("NhwcLayerNorm", "LayerNormalization"), ("NhwcGate", "Split"), ("NhwcGlu", "Sigmoid")],
)
def test_sessions_for_gpus_keep_the_body(library: Path, tmp_path: Path, operator: str, standard: str) -> None:
    session(library, operator, optimised=tmp_path / "optimised.onnx", settings={CPU_ONLY: "0"})
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert standard in left and operator not in left


@pytest.mark.parametrize("gate", GATES)
@pytest.mark.parametrize(("height", "wanted"), [(3, [2, 3, 4, 5]), ("H", None)])
def test_shapes_are_inferred(library: Path, height: int | str, wanted: list[int] | None, gate: str) -> None:
    nodes = [
        helper.make_node(gate, ["x"], ["gated"], domain=DOMAIN),
        helper.make_node("NhwcLayerNorm", ["gated", "scale", "offset"], ["result"], domain=DOMAIN),
    ]
    sizes: dict[str, list[int | str]] = {"x": [2, height, 4, 10], "scale": [5], "offset": [5]}
    result = helper.make_tensor_value_info("result", 0, None)
    result.ClearField("type")
    graph = helper.make_graph(
        nodes,
        "shapes",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, size) for name, size in sizes.items()],
        [result],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    (found,) = load(proto.SerializeToString(), library).get_outputs()
    assert found.type == "tensor(float)"
    assert wanted is None or found.shape == wanted


@pytest.mark.parametrize(
    ("operator", "name", "shape", "text"),
    [
        ("NhwcLayerNorm", "features", (2, 3), r"features have shape \[2, 3\]; N x H x W x C is wanted"),
        ("NhwcLayerNorm", "scale", (4,), r"the scale has shape \[4\]; \[5\] belongs to features \[2, 3, 4, 5\]"),
        ("NhwcLayerNorm", "offset", (1, 5), r"the offset has shape \[1, 5\]; \[5\] belongs to features"),
        ("NhwcGate", "features", (2, 3, 4), r"features have shape \[2, 3, 4\]; N x H x W x 2C is wanted"),
        ("NhwcGate", "features", (2, 3, 4, 7), r"features \[2, 3, 4, 7\] have 7 channels; an even number is wanted"),
        ("NhwcGlu", "features", (2, 6), r"features have shape \[2, 6\]; N x H x W x 2C is wanted"),
        ("NhwcGlu", "features", (2, 3, 4, 1), r"features \[2, 3, 4, 1\] have 1 channels; an even number is wanted"),
    ],
)  # fmt: skip
def test_bad_input(library: Path, operator: str, name: str, shape: tuple[int, ...], text: str) -> None:
    feeds = {given: array for given, array in draw((2, 3, 4, 5)).items() if given in INPUTS[operator]}
    with pytest.raises(Exception, match=text):
        session(library, operator).run(None, feeds | {name: np.ones(shape, np.float32)})

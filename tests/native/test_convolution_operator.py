# SPDX-License-Identifier: Apache-2.0
"""Convolutions in ONNX Runtime, against float64 and against ONNX's own Conv and ConvTranspose."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.runtime.backends.onnxruntime_session import CPU_ONLY
from native_sessions import load

onnxruntime = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]
KINDS = ("Convolution3x3", "TransposedConvolution4x4")
FUNCTIONS = tuple(kind + relu for kind in KINDS for relu in ("", "Relu"))
# Of the results' root mean square; the frequencies of 6 x 6 features cancel where products do not.
LARGEST, MEAN = 2.5e-5, 3e-6
# Pictures, channels before and after, height, width; some are cut into blocks, and of some transposed convolutions
# the features are few.
SHAPES = [
    (1, 1, 1, 1, 1), (2, 3, 5, 1, 19), (1, 5, 3, 23, 1), (3, 16, 17, 7, 9), (1, 130, 20, 13, 31),
    (1, 20, 130, 16, 32), (2, 9, 12, 66, 130), (1, 4, 5, 181, 203), (17, 40, 9, 4, 4),
]  # fmt: skip


def model(function: str, stored: dict[str, Array], inputs: list[str], *, body: bool) -> bytes:
    """A file of one node, some of whose inputs are stored."""
    node = helper.make_node(function, inputs, ["result"], domain=DOMAIN)
    given = [name for name in inputs if name and name not in stored]
    graph = helper.make_graph(
        [node],
        function,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in given],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in stored.items()],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    functions = bodies(OPSET) if body else []
    proto = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    data: bytes = proto.SerializeToString()
    return data


def draw(shape: tuple[int, ...], function: str = KINDS[0]) -> tuple[Array, Array, Array]:
    """Features, weights and bias."""
    count, before, after, height, width = shape
    rng = np.random.default_rng(sum(shape))
    if function.startswith(KINDS[1]):
        weights = rng.standard_normal((before, after, 4, 4)) * (2 / (4 * before)) ** 0.5
    else:
        weights = rng.standard_normal((after, before, 3, 3)) * (2 / (9 * before)) ** 0.5
    arrays = (rng.standard_normal((count, before, height, width)), weights, rng.standard_normal(after))
    return tuple(array.astype(np.float32) for array in arrays)  # type: ignore[return-value]


def convolve(features: Array, weights: Array) -> Array:
    """By the side of the kernels: of stride 1 with a border of one zero, or transposed, of stride 2 and padding 1."""
    features, weights = features.astype(np.float64), weights.astype(np.float64)
    if weights.shape[2:] == (4, 4):
        # Zeros between the features, and the kernel turned around.
        spread = np.zeros((*features.shape[:2], 2 * features.shape[2] - 1, 2 * features.shape[3] - 1))
        spread[:, :, ::2, ::2] = features
        features, weights = spread, weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    border = weights.shape[2] - 2
    padded = np.pad(features, ((0, 0), (0, 0), (border, border), (border, border)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, weights.shape[2:], (2, 3))
    return np.einsum("nchwij,kcij->nkhw", windows, weights, optimize=True)


def assert_close(found: Array, sums: Array, relu: bool) -> None:
    """`sums` are what comes before the ReLU."""
    wanted = np.maximum(sums, 0) if relu else sums
    assert found.shape == wanted.shape
    off, size = found - wanted, float(np.sqrt(np.mean(sums**2)))
    assert np.abs(off).max() <= LARGEST * size
    assert np.sqrt(np.mean(off**2)) <= MEAN * size


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "given"])
@pytest.mark.parametrize("biased", [True, False], ids=["bias", "none"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_values(library: Path, function: str, biased: bool, stored: bool) -> None:
    names = ["features", "weights", *(["bias"] if biased else [])]
    sessions: dict[str, Any] = {}
    for shape in SHAPES:
        feeds = dict(zip(("features", "weights", "bias"), draw(shape, function), strict=True))
        kept = {name: feeds[name] for name in names[1:]} if stored else {}
        if stored or not sessions:
            sessions = {
                "native": load(model(function, kept, names, body=False), library),
                "portable": load(model(function, kept, names, body=True), None),
            }
        sums = convolve(feeds["features"], feeds["weights"])
        sums += feeds["bias"].reshape(-1, 1, 1).astype(np.float64) * biased
        for session in sessions.values():
            (found,) = session.run(None, {name: feeds[name] for name in names if name not in kept})
            assert_close(found, sums, function.endswith("Relu"))


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_bias_without_a_name_is_none(library: Path, function: str) -> None:
    features, weights, _ = draw((1, 4, 3, 6, 7), function)
    for used in (library, None):
        session = load(model(function, {"weights": weights}, ["features", "weights", ""], body=True), used)
        (found,) = session.run(None, {"features": features})
        assert_close(found, convolve(features, weights), function.endswith("Relu"))


@pytest.mark.parametrize(
    "shape", [(1, 2, 3, 2, 2), (3, 16, 17, 7, 9), (2, 5, 6, 17, 16), (1, 9, 12, 66, 131)]
)
def test_a_border_is_reflected(library: Path, shape: tuple[int, ...]) -> None:
    features, weights, bias = draw(shape)
    whole = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)), "reflect")
    sums = convolve(whole, weights)[:, :, 1:-1, 1:-1] + bias.reshape(-1, 1, 1).astype(np.float64)
    names = ["features", "weights", "bias"]
    stored = {"weights": weights, "bias": bias}
    for body in (False, True):
        session = load(model("ReflectedConvolution3x3", stored, names, body=body), None if body else library)
        (found,) = session.run(None, {"features": features})
        assert_close(found, sums, relu=False)


def test_nothing_is_reflected_from_one_row(library: Path) -> None:
    _, weights, _ = draw((1, 3, 3, 1, 4))
    session = load(
        model("ReflectedConvolution3x3", {"weights": weights}, ["features", "weights"], body=False), library
    )
    with pytest.raises(Exception, match=r"features have shape \[1, 3, 1, 4\]; a border is reflected from"):
        session.run(None, {"features": np.ones((1, 3, 1, 4), np.float32)})


def gradient(slopes: Array, result: Array, weights: Array) -> Array:
    """Of a convolution and its ReLU by the features."""
    passed = np.where(result > 0, slopes, np.float32(0))
    return convolve(passed, weights.transpose(1, 0, 2, 3)[:, :, ::-1, ::-1])


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "given"])
def test_gradients(library: Path, stored: bool) -> None:
    names = ["gradient", "made", "weights"]
    for count, before, after, height, width in SHAPES:
        slopes, _, _ = draw((count, after, before, height, width))
        _, weights, _ = draw((count, before, after, height, width))
        result = np.random.default_rng(1).standard_normal(slopes.shape).astype(np.float32)
        result[..., ::3] = 0
        feeds = {"gradient": np.where(result < -1, np.float32(np.nan), slopes), "made": result}
        feeds["weights"] = weights
        kept = {"weights": weights} if stored else {}
        for body in (False, True):
            session = load(model("Convolution3x3ReluGrad", kept, names, body=body), None if body else library)
            (found,) = session.run(None, {name: feeds[name] for name in names if name not in kept})
            assert_close(found, gradient(slopes, result, weights), relu=False)


def test_a_convolution_and_its_gradient_share_their_weights(library: Path) -> None:
    """Session after session, whose weights may well lie where those of the last one lay."""
    names = ["gradient", "result", "weights"]
    for seed in range(4):
        features, weights, _ = draw((1, 40 + seed, 30, 9, 20))
        proto = onnx.load_from_string(
            model("Convolution3x3Relu", {"weights": weights}, ["features", "weights"], body=False)
        )
        proto.graph.node.append(helper.make_node("Convolution3x3ReluGrad", names, ["slope"], domain=DOMAIN))
        proto.graph.input.append(helper.make_tensor_value_info("gradient", TensorProto.FLOAT, None))
        proto.graph.output.append(helper.make_tensor_value_info("slope", TensorProto.FLOAT, None))
        session = load(proto.SerializeToString(), library)
        slopes, _, _ = draw((1, 30, 40 + seed, 9, 20))
        for order in (["slope", "result"], ["result", "slope"]):
            found = dict(
                zip(order, session.run(order, {"features": features, "gradient": slopes}), strict=True)
            )
            assert_close(found["result"], convolve(features, weights), relu=True)
            assert_close(found["slope"], gradient(slopes, found["result"], weights), relu=False)
        del session


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_lie_where_those_of_another_session_lay_are_not_taken_for_them(
    library: Path, kind: str
) -> None:
    """A session gives its weights back before its kernels; in between those of another one may come."""
    features, weights, _ = draw((1, 8, 8, 12, 12), kind)
    place = weights.copy()
    shared = onnxruntime.OrtValue.ortvalue_from_numpy(place)
    data = model(kind, {"weights": weights}, ["features", "weights"], body=False)
    sessions = []  # Whose kernels stay.
    for factor in (1, 3):
        np.multiply(weights, np.float32(factor), out=place)
        sessions.append(load(data, library, initializers={"weights": shared}))
        (found,) = sessions[-1].run(None, {"features": features})
        (wanted,) = load(model(kind, {"weights": place}, ["features", "weights"], body=False), library).run(
            None, {"features": features}
        )
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(
    ("shapes", "text"),
    [
        (
            ((1, 4, 4, 4), (1, 4, 4, 5), (4, 3, 3, 3)),
            r"the result has shape \[1, 4, 4, 5\]; that of its gradient, \[1, 4, 4, 4\], is wanted",
        ),
        (
            ((1, 3, 4, 4), (1, 3, 4, 4), (4, 3, 3, 3)),
            r"weights have shape \[4, 3, 3, 3\]; \[3, C, 3, 3\] belongs to gradients \[1, 3, 4, 4\]",
        ),
        (((3, 4, 4), (3, 4, 4), (4, 3, 3, 3)), r"gradients have shape \[3, 4, 4\]; N x K x H x W is wanted"),
    ],
)
def test_bad_gradients(library: Path, shapes: tuple[tuple[int, ...], ...], text: str) -> None:
    names = ["gradient", "made", "weights"]
    session = load(model("Convolution3x3ReluGrad", {}, names, body=False), library)
    with pytest.raises(Exception, match=text):
        session.run(
            None, {name: np.ones(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
        )


@pytest.mark.parametrize(
    "shape", [(1, 32, 33, 40, 70), (2, 9, 12, 66, 130), (1, 4, 5, 181, 203), (1, 70, 40, 4, 4)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_threads_changes_no_bit(library: Path, kind: str, shape: tuple[int, ...]) -> None:
    features, weights, bias = draw(shape, kind)
    data = model(
        kind + "Relu", {"weights": weights, "bias": bias}, ["features", "weights", "bias"], body=False
    )
    one, *more = (load(data, library, threads) for threads in (1, 2, 3))
    (wanted,) = one.run(None, {"features": features})
    for session in more * 3:
        np.testing.assert_array_equal(session.run(None, {"features": features})[0], wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_many_threads_share_a_session_at_many_sizes(library: Path, kind: str) -> None:
    """Their first calls, which pack the weights, too."""
    _, weights, _ = draw((1, 6, 7, 1, 1), kind)
    session = load(model(kind, {"weights": weights}, ["features", "weights"], body=False), library, 2)
    pictures = [draw((1, 6, 7, 2 + 30 * size, 90))[0] for size in range(6)]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda features: session.run(None, {"features": features})[0], pictures * 3))
    for found, features in zip(made, pictures * 3, strict=True):
        assert_close(found, convolve(features, weights), relu=False)


@pytest.mark.parametrize("kind", KINDS)
def test_it_takes_the_place_of_its_body(library: Path, tmp_path: Path, kind: str) -> None:
    """With the library there is one node; without it ONNX Runtime has the body's."""
    _, weights, bias = draw((1, 16, 16, 8, 8), kind)
    data = model(
        kind + "Relu", {"weights": weights, "bias": bias}, ["features", "weights", "bias"], body=True
    )
    left = []
    for used, settings in ((library, {}), (None, {}), (library, {CPU_ONLY: "0"})):
        load(data, used, optimised=tmp_path / "optimised.onnx", settings=settings)
        left.append([node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node])
    assert left[0] == [kind + "Relu"]
    assert left[2] == left[1]  # As a session for a GPU asks for.
    if kind == KINDS[0]:  # ONNX Runtime makes one of its Conv and Relu.
        assert "Relu" not in left[1] and len([name for name in left[1] if "Conv" in name]) == 1
    else:
        assert left[1] == ["ConvTranspose", "Relu"]


@pytest.mark.parametrize(("kind", "wanted"), [(KINDS[0], [2, 6, 5, 7]), (KINDS[1], [2, 6, 10, 14])])
def test_shapes_are_inferred(library: Path, tmp_path: Path, kind: str, wanted: list[int]) -> None:
    """ONNX Runtime replaces a question for a shape by its answer before anything runs."""
    _, weights, _ = draw((1, 4, 6, 1, 1), kind)
    proto = onnx.load_from_string(model(kind, {"weights": weights}, ["features", "weights"], body=False))
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("features", TensorProto.FLOAT, [2, 4, 5, 7]))
    proto.graph.node.append(helper.make_node("Shape", ["result"], ["shape"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("shape", TensorProto.INT64, None))
    load(proto.SerializeToString(), library, optimised=tmp_path / "optimised.onnx")
    optimised = onnx.load(tmp_path / "optimised.onnx").graph
    assert list(optimised.node) == []
    answers = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in optimised.initializer}
    assert answers == {"shape": wanted}


def test_twice_a_size_that_is_not_known_stays_unknown(library: Path, tmp_path: Path) -> None:
    _, weights, _ = draw((1, 4, 6, 1, 1), KINDS[1])
    proto = onnx.load_from_string(model(KINDS[1], {"weights": weights}, ["features", "weights"], body=False))
    shape = ["N", 4, "H", 7]
    proto.graph.input[0].CopyFrom(helper.make_tensor_value_info("features", TensorProto.FLOAT, shape))
    proto.graph.node.append(helper.make_node("Shape", ["result"], ["shape"]))
    proto.graph.output[0].CopyFrom(helper.make_tensor_value_info("shape", TensorProto.INT64, None))
    session = load(proto.SerializeToString(), library)
    (found,) = session.run(None, {"features": np.zeros((3, 4, 2, 7), np.float32)})
    assert found.tolist() == [3, 6, 4, 14]


@pytest.mark.parametrize(
    ("kind", "shapes", "text"),
    [
        (0, ((2, 3), (4, 3, 3, 3), (4,)), r"features have shape \[2, 3\]; N x C x H x W is wanted"),
        (0, ((1, 3, 0, 4), (4, 3, 3, 3), (4,)), r"features have shape \[1, 3, 0, 4\]"),
        (
            0,
            ((1, 3, 4, 4), (4, 3, 5, 5), (4,)),
            r"weights have shape \[4, 3, 5, 5\]; K x C x 3 x 3 is wanted",
        ),
        (0, ((1, 3, 4, 4), (4, 3, 3), (4,)), r"weights have shape \[4, 3, 3\]; K x C x 3 x 3 is wanted"),
        (
            1,
            ((1, 3, 4, 4), (3, 4, 3, 3), (4,)),
            r"weights have shape \[3, 4, 3, 3\]; C x K x 4 x 4 is wanted",
        ),
        (
            0,
            ((1, 3, 4, 4), (4, 2, 3, 3), (4,)),
            r"weights have shape \[4, 2, 3, 3\]; \[K, 3, 3, 3\] belongs to features \[1, 3, 4, 4\]",
        ),
        (
            1,
            ((1, 3, 4, 4), (2, 4, 4, 4), (4,)),
            r"weights have shape \[2, 4, 4, 4\]; \[3, K, 4, 4\] belongs to features \[1, 3, 4, 4\]",
        ),
        (
            0,
            ((1, 3, 4, 4), (4, 3, 3, 3), (3,)),
            r"the bias has shape \[3\]; \[4\] belongs to weights of 4 outputs",
        ),
        (
            1,
            ((1, 3, 4, 4), (3, 4, 4, 4), (3,)),
            r"the bias has shape \[3\]; \[4\] belongs to weights of 4 outputs",
        ),
    ],
)
def test_bad_input(library: Path, kind: int, shapes: tuple[tuple[int, ...], ...], text: str) -> None:
    names = ["features", "weights", "bias"]
    feeds = {name: np.ones(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
    session = load(model(KINDS[kind], {}, names, body=False), library)
    with pytest.raises(Exception, match=text):
        session.run(None, feeds)


@pytest.mark.parametrize(("kind", "wanted"), [(KINDS[0], "K x C x 3 x 3"), (KINDS[1], "C x K x 4 x 4")])
def test_bad_stored_weights_are_told_when_the_session_is_made(library: Path, kind: str, wanted: str) -> None:
    data = model(kind, {"weights": np.ones((4, 3, 1, 1), np.float32)}, ["features", "weights"], body=False)
    with pytest.raises(Exception, match=rf"weights have shape \[4, 3, 1, 1\]; {wanted} is wanted"):
        load(data, library)

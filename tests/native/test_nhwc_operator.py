# SPDX-License-Identifier: Apache-2.0
"""Convolutions with channels last in ONNX Runtime, against float64."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import BF16_OPSET
from gantk.runtime.backends.onnxruntime_session import CPU_ONLY
from native_sessions import load

Array = np.ndarray[Any, Any]
PLAIN, TRANSPOSED = "NhwcConvolution", "NhwcTransposedConvolution4x4"
TYPES = ("float32", "bfloat16")
ENDINGS = ("", "Relu", "PRelu", "Sum")
# Of the results' root mean square: the largest error and its own root mean square, by sums of products and by
# Winograd's method, whose frequencies are rounded to bfloat16 too.
PRODUCTS = {"float32": (1e-5, 1.5e-6), "bfloat16": (0.015, 2.9e-3)}
WINOGRAD = {"float32": (2.5e-5, 3e-6), "bfloat16": (0.13, 1.4e-2)}


@dataclass(frozen=True)
class Trial:
    """One convolution.

    Args:
        features: N x H x W x C.
        outputs: Channels of the result.
        kernel: Height and width.
        stride: Of one that is not transposed.
        before: The pads above and to the left.
        after: Those below and to the right.
        dilation: Of one that is not transposed.
        transposed: Whether it is.
        winograd: Whether Winograd's method is chosen.
    """

    features: tuple[int, int, int, int]
    outputs: int
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    before: int = 0
    after: int = 0
    dilation: int = 1
    transposed: bool = False
    winograd: bool = False

    @property
    def function(self) -> str:
        return TRANSPOSED if self.transposed else PLAIN

    @property
    def attributes(self) -> dict[str, list[int]]:
        pads = [self.before] * 2 + [self.after] * 2
        given = {
            "strides": [self.stride] * 2 if self.stride > 1 else [],
            "dilations": [self.dilation] * 2 if self.dilation > 1 else [],
            "pads": pads if any(pads) else [],
        }
        return {name: numbers for name, numbers in given.items() if numbers}

    @property
    def weights(self) -> tuple[int, ...]:
        inputs = self.features[3]
        return (inputs, self.outputs, 4, 4) if self.transposed else (self.outputs, inputs, *self.kernel)


def around(features: tuple[int, int, int, int], outputs: int, pads: int, **how: Any) -> Trial:
    """With the same pads on all sides."""
    return Trial(features, outputs, before=pads, after=pads, **how)


def transposed(
    features: tuple[int, int, int, int], outputs: int, before: int, after: int, **how: Any
) -> Trial:
    return Trial(features, outputs, (4, 4), before=before, after=after, transposed=True, **how)


TRIALS = [
    Trial((2, 20, 21, 32), 48, winograd=True),
    Trial((1, 34, 18, 48), 16, winograd=True),
    Trial((1, 5, 5, 32), 48),  # One tile.
    Trial((2, 11, 13, 3), 32, (9, 9)),
    Trial((1, 17, 15, 32), 3, (9, 9)),
    Trial((1, 3, 3, 5), 3),
    Trial((1, 12, 11, 16), 64, stride=2),
    Trial((2, 9, 23, 4), 5, stride=2),
    Trial((16, 1, 1, 100), 130, (1, 1)),
    around((2, 20, 21, 32), 48, 1, winograd=True),
    around((1, 2, 2, 16), 16, 1),
    around((1, 9, 12, 3), 32, 1, kernel=(4, 4), stride=2),
    around((1, 9, 12, 32), 3, 4, kernel=(9, 9)),
    Trial((2, 20, 21, 32), 48, before=0, after=2, winograd=True),
    Trial((1, 9, 12, 3), 32, stride=2, before=0, after=1),
    around((2, 20, 21, 32), 48, 2, dilation=2, winograd=True),
    around((1, 13, 30, 16), 32, 4, dilation=4, winograd=True),
    around((1, 9, 7, 16), 32, 8, dilation=8),  # A tile of each pixel.
    around((2, 11, 9, 5), 20, 3, dilation=3, stride=2),
    Trial((2, 9, 11, 7), 3, (2, 3), dilation=2),
    transposed((2, 7, 7, 32), 32, 1, 1, winograd=True),
    transposed((1, 21, 18, 16), 80, 3, 3, winograd=True),
    transposed((3, 4, 4, 48), 32, 1, 1),
    transposed((2, 7, 9, 48), 3, 1, 1),
    transposed((1, 3, 4, 7), 9, 3, 3),
    transposed((2, 8, 7, 32), 32, 1, 0, winograd=True),
    transposed((1, 3, 4, 48), 20, 1, 0),
    transposed((2, 7, 9, 48), 3, 1, 0),
]
by_trial = pytest.mark.parametrize("trial", TRIALS, ids=str)


def rounded(array: Array) -> Array:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def draw(trial: Trial, ending: str = "") -> dict[str, Array]:
    """Features, weights, a bias and what an ending wants, in float32, as bfloat16 holds it."""
    rng = np.random.default_rng(sum(trial.features))
    taps = 4 if trial.transposed else trial.kernel[0] * trial.kernel[1]
    scale = (2 / (trial.features[3] * taps)) ** 0.5
    feeds = {
        "features": rounded(rng.standard_normal(trial.features)),
        "weights": rounded(rng.standard_normal(trial.weights) * scale),
        "bias": rounded(rng.standard_normal(trial.outputs)),
    }
    if ending == "PRelu":
        feeds["slopes"] = rounded(0.3 * rng.standard_normal(trial.outputs))
    if ending == "Sum":
        feeds["others"] = rounded(rng.standard_normal(convolve(trial, **dict(list(feeds.items())[:2])).shape))
    return feeds


def model(
    function: str,
    attributes: dict[str, Any],
    inputs: list[str],
    stored: dict[str, Array],
    dtype: str = "bfloat16",
    *,
    body: bool = False,
) -> bytes:
    """A file of one node; what comes and goes is float32."""
    low = ".low" if dtype == "bfloat16" else ""
    given = [name for name in inputs if name and name not in stored]
    nodes = [
        helper.make_node("Cast", [name], [f"{name}.low"], to=TensorProto.BFLOAT16) for name in given if low
    ]
    names = [f"{name}{low}" if name else "" for name in inputs]
    nodes.append(helper.make_node(function, names, ["made"], domain=DOMAIN, **attributes))
    nodes.append(helper.make_node("Cast", ["made"], ["result"], to=TensorProto.FLOAT))
    kind, number = (ml_dtypes.bfloat16, TensorProto.BFLOAT16) if low else (np.float32, TensorProto.FLOAT)
    weights = [
        helper.make_tensor(f"{name}{low}", number, array.shape, array.astype(kind).tobytes(), raw=True)
        for name, array in stored.items()
    ]
    graph = helper.make_graph(
        nodes,
        function,
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in given],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT, None)],
        weights,
    )
    opsets = [helper.make_opsetid("", BF16_OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    functions = [each for each in bodies(BF16_OPSET) if each.name == function] if body else []
    proto = helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)
    data: bytes = proto.SerializeToString()
    return data


def convolve(trial: Trial, features: Array, weights: Array) -> Array:
    features = features.astype(np.float64).transpose(0, 3, 1, 2)
    weights = weights.astype(np.float64)
    border = (trial.before, trial.after)
    if trial.transposed:
        # Zeros between the features and around them, and the kernel turned around.
        spread = np.zeros((*features.shape[:2], 2 * features.shape[2] - 1, 2 * features.shape[3] - 1))
        spread[:, :, ::2, ::2] = features
        features, border = spread, (3 - trial.before, 3 - trial.after)
        weights = weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3)
    features = np.pad(features, ((0, 0), (0, 0), border, border))
    reach = tuple((size - 1) * trial.dilation + 1 for size in weights.shape[2:])
    windows = np.lib.stride_tricks.sliding_window_view(features, reach, (2, 3))
    strided = windows[:, :, :: trial.stride, :: trial.stride, :: trial.dilation, :: trial.dilation]
    return np.einsum("nchwij,kcij->nhwk", strided, weights, optimize=True)


def ended(sums: Array, ending: str, feeds: dict[str, Array]) -> Array:
    """What becomes of sums with their bias."""
    if ending == "Relu":
        return np.maximum(sums, 0)
    if ending == "PRelu":
        return np.where(sums < 0, sums * feeds["slopes"].astype(np.float64), sums)
    return sums + feeds["others"].astype(np.float64) if ending == "Sum" else sums


def assert_close(found: Array, sums: Array, wanted: Array, tolerances: tuple[float, float]) -> None:
    """`wanted` is what becomes of `sums`, of whose size the tolerances are."""
    assert found.shape == wanted.shape
    off, size = found - wanted, float(np.sqrt(np.mean(np.maximum(sums**2, wanted**2))))
    assert np.abs(off).max() <= tolerances[0] * size
    assert np.sqrt(np.mean(off**2)) <= tolerances[1] * size


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "given"])
@pytest.mark.parametrize("ending", ENDINGS)
@by_trial
def test_values(library: Path, trial: Trial, ending: str, stored: bool, dtype: str) -> None:
    feeds = draw(trial, ending)
    kept = {name: feeds[name] for name in ("weights", "bias", "slopes") if name in feeds} if stored else {}
    data = model(trial.function + ending, trial.attributes, [*feeds], kept, dtype)
    sums = convolve(trial, feeds["features"], feeds["weights"]) + feeds["bias"].astype(np.float64)
    given = {name: array for name, array in feeds.items() if name not in kept}
    made = [load(data, library, threads).run(None, given)[0] for threads in (1, 3)]
    tolerances = (WINOGRAD if trial.winograd else PRODUCTS)[dtype]
    assert_close(made[0], sums, ended(sums, ending, feeds), tolerances)
    np.testing.assert_array_equal(made[0], made[1])  # The number of threads decides nothing.


@pytest.mark.parametrize("trial", [trial for trial in TRIALS if trial.winograd], ids=str)
def test_winograds_method_is_chosen(library: Path, trial: Trial) -> None:
    """It is off by more than sums of products could be."""
    feeds = draw(trial)
    kept = {"weights": feeds["weights"]}
    session = load(model(trial.function, trial.attributes, ["features", "weights"], kept), library)
    (found,) = session.run(None, {"features": feeds["features"]})
    sums = convolve(trial, feeds["features"], feeds["weights"])
    assert np.sqrt(np.mean((found - sums) ** 2)) > PRODUCTS["bfloat16"][1] * np.sqrt(np.mean(sums**2))


@pytest.mark.parametrize("ending", ENDINGS)
@by_trial
def test_the_body(trial: Trial, ending: str) -> None:
    feeds = draw(trial, ending)
    session = load(model(trial.function + ending, trial.attributes, [*feeds], {}, "float32", body=True), None)
    sums = convolve(trial, feeds["features"], feeds["weights"]) + feeds["bias"].astype(np.float64)
    assert_close(session.run(None, feeds)[0], sums, ended(sums, ending, feeds), PRODUCTS["float32"])


@pytest.mark.parametrize("function", [PLAIN, TRANSPOSED])
def test_attributes_and_bias_may_be_left_out(library: Path, function: str) -> None:
    trial = Trial((1, 6, 7, 8), 20) if function == PLAIN else transposed((1, 6, 7, 8), 20, 1, 1)
    feeds = draw(trial)
    kept = {"weights": feeds["weights"]}
    sums = convolve(trial, feeds["features"], feeds["weights"])
    for names in (["features", "weights"], ["features", "weights", ""]):
        for dtype, used in (("bfloat16", library), ("float32", library), ("float32", None)):
            session = load(model(function, {}, names, kept, dtype, body=used is None), used)
            (found,) = session.run(None, {"features": feeds["features"]})
            assert_close(found, sums, sums, PRODUCTS[dtype])


def test_many_threads_share_a_session_at_many_sizes(library: Path) -> None:
    """Their first calls, which pack the weights, too."""
    sizes = [Trial((1, 3 + 9 * size, 20, 16), 16, winograd=size > 0) for size in range(6)]
    kept = {"weights": draw(sizes[0])["weights"]}
    session = load(model(PLAIN, {}, ["features", "weights"], kept), library, 2)
    pictures = [draw(trial)["features"] for trial in sizes]
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda features: session.run(None, {"features": features})[0], pictures * 3))
    for found, trial, features in zip(made, sizes * 3, pictures * 3, strict=True):
        sums = convolve(trial, features, kept["weights"])
        assert_close(found, sums, sums, WINOGRAD["bfloat16"])


def test_sessions_for_gpus_keep_the_body(library: Path, tmp_path: Path) -> None:
    trial = TRIALS[0]
    feeds = draw(trial)
    kept = {name: feeds[name] for name in ("weights", "bias")}
    data = model(PLAIN, {}, [*feeds], kept, "float32", body=True)
    load(data, library, optimised=tmp_path / "optimised.onnx", settings={CPU_ONLY: "0"})
    left = {node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node}
    assert PLAIN not in left


@pytest.mark.parametrize(
    ("function", "attributes", "shapes", "text"),
    [
        (
            f"{PLAIN}PRelu",
            {},
            ((1, 4, 4, 3), (4, 3, 3, 3), (4,), (1, 1, 4)),
            r"slopes have shape \[1, 1, 4\]; \[4\] is wanted",
        ),
        (
            f"{PLAIN}Sum",
            {},
            ((1, 4, 4, 3), (4, 3, 3, 3), (4,), (1, 4, 4, 4)),
            r"others have shape \[1, 4, 4, 4\]; \[1, 2, 2, 4\] is wanted",
        ),
        (PLAIN, {}, ((2, 3), (4, 3, 3, 3), (4,)), r"features have shape \[2, 3\]; N x H x W x C is wanted"),
        (PLAIN, {}, ((1, 4, 4, 3), (4, 3, 3), (4,)), r"weights have shape \[4, 3, 3\]; K x C x h x w is wanted"),
        (
            PLAIN,
            {},
            ((1, 4, 4, 3), (4, 2, 3, 3), (4,)),
            r"weights have shape \[4, 2, 3, 3\]; \[K, 3, h, w\] belongs to features \[1, 4, 4, 3\]",
        ),
        (PLAIN, {}, ((1, 2, 9, 3), (4, 3, 3, 3), (4,)), r"\[1, 2, 9, 3\], which is too small for kernels of 3 x 3"),
        (PLAIN, {}, ((1, 4, 4, 3), (4, 3, 3, 3), (3,)), r"the bias has shape \[3\]; \[4\] belongs to weights of 4"),
        (PLAIN, {"strides": [1, 2]}, None, r"`strides` are \[1, 2\]; alike ones are wanted"),
        (PLAIN, {"strides": [-1, -1]}, None, "strides are below 1"),
        (PLAIN, {"dilations": [1, 2]}, None, r"`dilations` are \[1, 2\]; alike ones are wanted"),
        (PLAIN, {"dilations": [-1, -1]}, None, "dilations are below 1"),
        (
            PLAIN,
            {"dilations": [2, 2]},
            ((1, 4, 9, 3), (4, 3, 3, 3), (4,)),
            r"\[1, 4, 9, 3\], which is too small for kernels of 3 x 3 with dilations of 2",
        ),
        (PLAIN, {"pads": [-1] * 4}, None, "pads are below 0"),
        (PLAIN, {"pads": [0, 0, -1, -1]}, None, "pads are below 0"),
        (PLAIN, {"pads": [1, 1, 0, 1]}, None, r"`pads` are \[1, 1, 0, 1\]; rows and columns are wanted alike"),
        (PLAIN, {"strides": [1, 1, 1]}, None, "`strides` is no list of 2 integers"),
        (
            TRANSPOSED,
            {"pads": [0, 0, 1, 1]},
            None,
            r"`pads` are \[0, 0, 1, 1\]; \[1, 1, 1, 1\], \[1, 1, 0, 0\] or \[3, 3, 3, 3\] are wanted",
        ),
        (TRANSPOSED, {"pads": [3] * 4}, ((1, 2, 9, 3), (3, 4, 4, 4), (4,)), r"\[1, 2, 9, 3\], which is too small"),
        (
            TRANSPOSED,
            {},
            ((1, 4, 4, 3), (3, 4, 3, 3), (4,)),
            r"weights have shape \[3, 4, 3, 3\]; C x K x 4 x 4 is wanted",
        ),
        (
            TRANSPOSED,
            {},
            ((1, 4, 4, 3), (2, 4, 4, 4), (4,)),
            r"weights have shape \[2, 4, 4, 4\]; \[3, K, 4, 4\] belongs to features \[1, 4, 4, 3\]",
        ),
    ],
)  # fmt: skip
def test_bad_input(library: Path, function: str, attributes: dict[str, Any], shapes: Any, text: str) -> None:
    more = {f"{PLAIN}PRelu": ["slopes"], f"{PLAIN}Sum": ["others"]}
    names = ["features", "weights", "bias", *more.get(function, [])]
    with pytest.raises(Exception, match=text):
        session = load(model(function, attributes, names, {}), library)
        session.run(
            None, {name: np.ones(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
        )


def test_there_is_no_kernel_for_float16(library: Path) -> None:
    """Once the library is there, no body takes its place."""
    proto = onnx.load_from_string(model(PLAIN, {}, ["features", "weights"], {}, "bfloat16", body=False))
    for node in proto.graph.node[:2]:
        node.attribute[0].i = TensorProto.FLOAT16
    with pytest.raises(Exception, match="float16"):
        load(proto.SerializeToString(), library)


def test_bad_stored_weights_are_told_when_the_session_is_made(library: Path) -> None:
    kept = {"weights": np.ones((4, 3, 1, 1), np.float32)}
    with pytest.raises(Exception, match=r"weights have shape \[4, 3, 1, 1\]; C x K x 4 x 4 is wanted"):
        load(model(TRANSPOSED, {}, ["features", "weights"], kept), library)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 5, 7, 3), (1, 33, 40, 64), (1, 2, 3, 5000)], ids=str)
def test_negative_values_are_multiplied(library: Path, shape: tuple[int, int, int, int], dtype: str) -> None:
    rng = np.random.default_rng(shape[3])
    feeds = {
        "features": rounded(rng.standard_normal(shape)),
        "slopes": rounded(rng.standard_normal(shape[3])),
    }
    wanted = np.where(feeds["features"] < 0, feeds["features"] * feeds["slopes"], feeds["features"])
    data = model("NhwcPRelu", {}, [*feeds], {}, dtype)
    made = [load(data, library, threads).run(None, feeds)[0] for threads in (1, 3)]
    np.testing.assert_array_equal(made[0], rounded(wanted) if dtype == "bfloat16" else wanted)
    np.testing.assert_array_equal(made[0], made[1])
    body = load(model("NhwcPRelu", {}, [*feeds], {}, "float32", body=True), None)
    np.testing.assert_array_equal(body.run(None, feeds)[0], wanted)


def test_slopes_are_of_the_channels(library: Path) -> None:
    session = load(model("NhwcPRelu", {}, ["features", "slopes"], {}), library)
    feeds = {"features": np.ones((1, 2, 3, 4), np.float32), "slopes": np.ones(3, np.float32)}
    with pytest.raises(Exception, match=r"slopes have shape \[3\]; \[4\] belongs to features \[1, 2, 3, 4\]"):
        session.run(None, feeds)


def test_sizes_that_are_not_known_are_not_told(library: Path) -> None:
    """ONNX Runtime takes -1 for a size as any other, and gives pictures the memory of ones that are as large."""
    pictures = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, None, None, 3])
    slopes = helper.make_tensor_value_info("slopes", TensorProto.FLOAT, [3])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    node = helper.make_node("NhwcPRelu", ["x", "slopes"], ["y"], domain=DOMAIN)
    proto = helper.make_model(
        helper.make_graph([node], "slopes", [pictures, slopes], [made]),
        opset_imports=[helper.make_opsetid("", BF16_OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    assert -1 not in load(proto.SerializeToString(), library).get_outputs()[0].shape

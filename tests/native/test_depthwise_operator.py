# SPDX-License-Identifier: Apache-2.0
"""Convolutions of each channel by itself, with channels last, in ONNX Runtime, against PyTorch in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from torch.nn import functional as F

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import BF16_OPSET
from native_sessions import load

Array = np.ndarray[Any, Any]
TYPES = {"float32": (TensorProto.FLOAT, np.float32), "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16)}
ENDINGS = ("", "Relu", "PRelu")
# Of the results' root mean square.
TOLERANCE = {"float32": 1e-5, "bfloat16": 0.02}


@dataclass(frozen=True)
class Trial:
    """One convolution.

    Args:
        features: N x H x W x C.
        kernel: Height and width.
        strides: Of rows and columns.
        pads: Zeros above, to the left, below and to the right.
        transposed: Whether it is transposed; pads are then of that.
        more: The output padding of a transposed one.
    """

    features: tuple[int, int, int, int]
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)
    transposed: bool = False
    more: tuple[int, int] = (0, 0)

    @property
    def name(self) -> str:
        return "NhwcDepthwiseTransposed" if self.transposed else "NhwcDepthwiseConvolution"

    @property
    def attributes(self) -> dict[str, Any]:
        more = {"output_padding": list(self.more)} if self.transposed else {}
        return {"group": self.features[3], "strides": list(self.strides), "pads": list(self.pads), **more}


TRIALS = [
    Trial((2, 20, 21, 64), (4, 4), pads=(2, 2, 1, 1)),
    Trial((1, 33, 30, 48), (4, 4), pads=(1, 1, 1, 1)),
    Trial((1, 14, 14, 130), pads=(1, 1, 1, 1)),
    Trial((2, 15, 16, 40), (5, 5), (2, 2), (2, 1, 2, 3)),
    Trial((1, 18, 17, 24), (7, 7), pads=(3, 3, 3, 3)),
    Trial((3, 1, 1, 20), (1, 1)),
    Trial((2, 9, 8, 3), (4, 4), pads=(2, 2, 1, 1)),
    Trial((1, 12, 70, 3), (3, 3), pads=(1, 1, 1, 1)),
    Trial((1, 13, 11, 6), (3, 2), (3, 3), (0, 1, 2, 0)),
    Trial((1, 1, 2, 1), (3, 3), pads=(2, 1, 4, 5)),
    Trial((1, 17, 30, 36), (12, 1), (2, 1), (3, 0, 2, 0)),
    Trial((1, 17, 30, 5), (1, 12), (1, 2), (0, 3, 0, 2)),
    Trial((2, 11, 9, 40), (4, 4), (2, 2), (1, 1, 1, 1), transposed=True),
    Trial((1, 14, 13, 33), (1, 12), (1, 2), (0, 4, 0, 5), transposed=True),
    Trial((1, 13, 14, 16), (24, 1), (4, 1), (10, 0, 11, 0), transposed=True, more=(1, 0)),
    Trial((1, 30, 11, 3), (5, 4), (3, 2), (2, 0, 1, 3), transposed=True, more=(2, 1)),
    Trial((1, 5, 70, 5), (3, 3), (1, 1), (1, 1, 0, 2), transposed=True),
    Trial((2, 3, 2, 20), (2, 1), (3, 4), transposed=True),
    Trial((1, 1, 1, 1), (3, 3), (2, 2), (2, 1, 0, 1), transposed=True),
]
by_trial = pytest.mark.parametrize("trial", TRIALS, ids=str)


def rounded(array: Array) -> Array:
    return array.astype(ml_dtypes.bfloat16).astype(np.float32)


def draw(trial: Trial, ending: str = "", seed: int = 0) -> dict[str, Array]:
    """Features, weights, a bias and what an ending wants, in float32, as bfloat16 holds it."""
    rng = np.random.default_rng(seed)
    channels = trial.features[3]
    shapes = {"features": trial.features, "weights": (channels, 1, *trial.kernel), "bias": (channels,)}
    if ending == "PRelu":
        shapes["slopes"] = (channels,)
    return {name: rounded(rng.standard_normal(shape)) for name, shape in shapes.items()}


def model(
    function: str,
    attributes: dict[str, Any],
    inputs: Sequence[str],
    stored: dict[str, Array],
    dtype: str = "float32",
    *,
    body: bool = False,
) -> bytes:
    """A file of one node; what comes and goes is float32."""
    number, kind = TYPES[dtype]
    fed = [name for name in inputs if name and name not in stored]
    names = [f"{name}.low" if name else "" for name in inputs]
    nodes = [
        *(helper.make_node("Cast", [name], [f"{name}.low"], to=number) for name in fed),
        helper.make_node(function, names, ["made"], domain=DOMAIN, **attributes),
        helper.make_node("Cast", ["made"], ["result"], to=TensorProto.FLOAT),
    ]
    weights = [
        helper.make_tensor(f"{name}.low", number, array.shape, array.astype(kind).tobytes(), raw=True)
        for name, array in stored.items()
    ]
    given_values, made_values = (
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in values]
        for values in (fed, ["result"])
    )
    proto = helper.make_model(
        helper.make_graph(nodes, function, given_values, made_values, weights),
        functions=[each for each in bodies(BF16_OPSET) if each.name == function] if body else [],
        opset_imports=[helper.make_opsetid("", BF16_OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    data: bytes = proto.SerializeToString()
    return data


def convolve(
    trial: Trial,
    ending: str,
    features: Array,
    weights: Array,
    bias: Array | None = None,
    slopes: Array | None = None,
) -> Array:
    planes, kernel, offset, slope = (
        None if array is None else torch.from_numpy(array.astype(np.float64))
        for array in (features, weights, bias, slopes)
    )
    assert planes is not None
    assert kernel is not None
    top, left, bottom, right = trial.pads
    if trial.transposed:
        sums = F.conv_transpose2d(
            planes.permute(0, 3, 1, 2), kernel, offset, trial.strides, groups=trial.features[3]
        )
        more = offset if offset is not None else torch.zeros(trial.features[3], dtype=torch.float64)
        whole = more.reshape(1, -1, 1, 1) * torch.ones(
            (1, 1, sums.shape[2] + trial.more[0], sums.shape[3] + trial.more[1]), dtype=torch.float64
        )
        whole = whole.repeat(len(sums), 1, 1, 1)
        whole[:, :, : sums.shape[2], : sums.shape[3]] = sums
        sums = whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]
    else:
        planes = F.pad(planes.permute(0, 3, 1, 2), (left, right, top, bottom))
        sums = F.conv2d(planes, kernel, offset, trial.strides, groups=trial.features[3])
    if ending == "PRelu":
        assert slope is not None
        sums = F.prelu(sums, slope)
    made: Array = (F.relu(sums) if ending == "Relu" else sums).permute(0, 2, 3, 1).numpy()
    return made


def assert_close(found: Array, wanted: Array, dtype: str) -> None:
    assert found.shape == wanted.shape
    size = float(np.sqrt(np.mean(wanted**2))) + 0.1  # Of a single result next to 0.
    assert np.abs(found - wanted).max() <= TOLERANCE[dtype] * max(size, float(np.abs(wanted).max()) / 4)


def check(
    library: Path | None, trial: Trial, ending: str, dtype: str, *, stored: bool = True, seed: int = 0
) -> None:
    feeds = draw(trial, ending, seed)
    kept = {name: array for name, array in feeds.items() if name != "features"} if stored else {}
    data = model(trial.name + ending, trial.attributes, [*feeds], kept, dtype, body=library is None)
    fed = {name: array for name, array in feeds.items() if name not in kept}
    made = [load(data, library, threads).run(None, fed)[0] for threads in (1, 3)]
    assert_close(made[0], convolve(trial, ending, **feeds), dtype)
    if library is not None:
        np.testing.assert_array_equal(made[0], made[1])  # The number of threads decides nothing.


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "given"])
@pytest.mark.parametrize("ending", ENDINGS)
@by_trial
def test_values(library: Path, trial: Trial, ending: str, stored: bool, dtype: str) -> None:
    check(library, trial, ending, dtype, stored=stored)


@pytest.mark.parametrize("ending", ENDINGS)
@by_trial
def test_the_body(trial: Trial, ending: str) -> None:
    check(None, trial, ending, "float32")


@st.composite
def trials(draws: st.DrawFn) -> Trial:
    kernel = draws(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    strides = draws(st.tuples(*[st.integers(1, 3)] * 2))
    if draws(st.booleans()):
        more = draws(st.tuples(*[st.integers(0, stride - 1) for stride in strides]))
        sizes = [draws(st.integers(1, 20)) for _ in range(2)]
        made = [strides[axis] * (sizes[axis] - 1) + kernel[axis] + more[axis] for axis in range(2)]
        before = [draws(st.integers(0, min(size - 1, 7))) for size in made]
        after = [draws(st.integers(0, size - 1 - cut)) for size, cut in zip(made, before, strict=True)]
        features = (draws(st.integers(1, 2)), *sizes, draws(st.integers(1, 40)))
        return Trial(features, kernel, strides, (*before, *after), transposed=True, more=more)
    pads = draws(st.tuples(*[st.integers(0, 4)] * 4))
    sides = [draws(st.integers(max(kernel[axis] - pads[axis] - pads[axis + 2], 1), 40)) for axis in range(2)]
    features = (draws(st.integers(1, 2)), sides[0], sides[1], draws(st.integers(1, 40)))
    return Trial(features, kernel, strides, pads)


@settings(max_examples=40, deadline=None)
@given(
    trial=trials(), ending=st.sampled_from(ENDINGS), dtype=st.sampled_from([*TYPES]), seed=st.integers(0, 99)
)
def test_any_shape(library: Path, trial: Trial, ending: str, dtype: str, seed: int) -> None:
    check(library, trial, ending, dtype, seed=seed)


@pytest.mark.parametrize("names", [["features", "weights"], ["features", "weights", ""]], ids=str)
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("transposed", [False, True])
def test_attributes_and_bias_may_be_left_out(
    library: Path, names: list[str], dtype: str, *, transposed: bool
) -> None:
    trial = Trial((1, 6, 7, 20), transposed=transposed)
    feeds = draw(trial)
    kept = {"weights": feeds["weights"]}
    wanted = convolve(trial, "", feeds["features"], feeds["weights"])
    for used in (library, *([None] if dtype == "float32" else [])):
        session = load(model(trial.name, {"group": 20}, names, kept, dtype, body=used is None), used)
        assert_close(session.run(None, {"features": feeds["features"]})[0], wanted, dtype)


@pytest.mark.parametrize(
    ("ending", "attributes", "shapes", "text"),
    [
        (
            "",
            {"group": 3},
            ((2, 3), (3, 1, 3, 3), (3,)),
            r"features have shape \[2, 3\]; N x H x W x C is wanted",
        ),
        ("", {"group": 3}, ((1, 4, 4, 3), (3, 3, 3), (3,)), r"weights have shape \[3, 3, 3\]; C x 1 x h x w"),
        (
            "",
            {"group": 3},
            ((1, 4, 4, 3), (3, 2, 3, 3), (3,)),
            r"weights have shape \[3, 2, 3, 3\]; C x 1 x h x w",
        ),
        ("", {}, ((1, 4, 4, 3), (3, 1, 3, 3), (3,)), r"`group` is 1; 3 belongs to weights \[3, 1, 3, 3\]"),
        (
            "",
            {"group": 4},
            ((1, 4, 4, 3), (4, 1, 3, 3), (4,)),
            r"weights have shape \[4, 1, 3, 3\]; \[3, 1, h, w\] belongs to features \[1, 4, 4, 3\]",
        ),
        (
            "",
            {"group": 3, "pads": [0, 1, 0, 1]},
            ((1, 2, 1, 3), (3, 1, 3, 3), (3,)),
            r"\[1, 2, 1, 3\], which is too small for kernels of 3 x 3",
        ),
        ("", {"group": 3}, ((1, 4, 4, 3), (3, 1, 3, 3), (2,)), r"the bias has shape \[2\]; \[3\] is wanted"),
        (
            "PRelu",
            {"group": 3},
            ((1, 4, 4, 3), (3, 1, 3, 3), (3,), (3, 1, 1)),
            r"slopes have shape \[3, 1, 1\]; \[3\] is wanted",
        ),
        ("", {"strides": [1, 0]}, None, r"`strides` are \[1, 0\]; at least 1 is wanted"),
        ("", {"strides": [-1, 1]}, None, r"`strides` are \[-1, 1\]; at least 1 is wanted"),
        ("", {"pads": [1, 0, -1, 1]}, None, r"`pads` are \[1, 0, -1, 1\]; none may be below 0"),
        ("", {"pads": [1, 1]}, None, "`pads` is no list of 4 integers"),
        ("", {"group": 1.0}, None, "`group` is no integer"),
    ],
)
@pytest.mark.parametrize("transposed", [False, True])
def test_bad_input(
    library: Path, ending: str, attributes: dict[str, Any], shapes: Any, text: str, *, transposed: bool
) -> None:
    if transposed and "too small" in text:
        text = r"features have shape \[1, 2, 1, 3\]; `pads` \[4, 1, 0, 1\] leave nothing"
        attributes = {"group": 3, "pads": [4, 1, 0, 1]}
    names = ["features", "weights", "bias", *(["slopes"] if ending == "PRelu" else [])]
    function = f"{Trial((1, 1, 1, 1), transposed=transposed).name}{ending}"
    with pytest.raises(Exception, match=text):
        session = load(model(function, attributes, names, {}), library)
        session.run(
            None, {name: np.ones(shape, np.float32) for name, shape in zip(names, shapes, strict=True)}
        )


@pytest.mark.parametrize("more", [[1, 0], [0, 2], [-1, 0]], ids=str)
def test_an_output_padding_is_below_the_strides(library: Path, more: list[int]) -> None:
    attributes = {"group": 3, "strides": [1, 2], "output_padding": more}
    with pytest.raises(Exception, match="`output_padding` is .*; from 0 on to below the strides is wanted"):
        load(model("NhwcDepthwiseTransposed", attributes, ["features", "weights"], {}), library)


@pytest.mark.parametrize("name", ["NhwcDepthwiseConvolution", "NhwcDepthwiseTransposed"])
def test_bad_stored_weights_are_told_when_the_session_is_made(library: Path, name: str) -> None:
    kept = {"weights": np.ones((4, 1, 3, 3), np.float32)}
    with pytest.raises(Exception, match=r"`group` is 3; 4 belongs to weights \[4, 1, 3, 3\]"):
        load(model(name, {"group": 3}, ["features", "weights"], kept), library)

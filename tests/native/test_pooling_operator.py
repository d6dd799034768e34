# SPDX-License-Identifier: Apache-2.0
"""Max pooling and its gradient in ONNX Runtime, against PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from torch.nn import functional as F

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from native_sessions import load

TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}


def session(library: Path | None, dtype: str = "float32") -> Any:
    """Features and a slope of what they are pooled to, to the pooled and the slope of the features.

    Types without an interface in numpy are cast to in the graph; the bodies need no library.
    """
    kind = TYPES[dtype]
    nodes = [
        helper.make_node("Cast", ["wide_features"], ["features"], to=kind),
        helper.make_node("Cast", ["wide_gradient"], ["gradient"], to=kind),
        helper.make_node("MaxPool2x2", ["features"], ["pooled"], domain=DOMAIN),
        helper.make_node("MaxPool2x2Grad", ["gradient", "features", "pooled"], ["made"], domain=DOMAIN),
        helper.make_node("Cast", ["pooled"], ["wide_pooled"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["made"], ["wide_made"], to=TensorProto.FLOAT),
    ]
    given, yielded = (
        [helper.make_tensor_value_info(f"wide_{name}", TensorProto.FLOAT, None) for name in names]
        for names in (("features", "gradient"), ("pooled", "made"))
    )
    proto = helper.make_model(
        helper.make_graph(nodes, "pooling", given, yielded),
        functions=bodies(OPSET) if library is None else [],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    return load(proto.SerializeToString(), library, threads=2)


@pytest.mark.parametrize("dtype", TYPES)
def test_ties_and_odd_sizes(library: Path, dtype: str) -> None:
    native = session(library, dtype)
    others = [session(None)] if dtype == "float32" else []
    for height, width in [(2, 2), (3, 2), (5, 7), (66, 9), (3, 2047), (4099, 2)]:
        rng = torch.Generator().manual_seed(height)
        # Few different values, so that most windows have their maximum several times.
        x = torch.randint(-2, 2, (2, 3, height, width), generator=rng).float().requires_grad_()
        pooled = F.max_pool2d(x, 2)
        slope = torch.randn(pooled.shape, generator=rng).to(getattr(torch, dtype)).float()
        (wanted,) = torch.autograd.grad(pooled, x, slope)
        feeds = {"wide_features": x.detach().numpy(), "wide_gradient": slope.numpy()}
        for each in (native, *others):
            found, made = each.run(None, feeds)
            np.testing.assert_array_equal(found, pooled.detach().numpy())
            np.testing.assert_array_equal(made, wanted.numpy())


def test_nan_is_a_maximum_and_its_slope_goes_last(library: Path) -> None:
    features = np.zeros((1, 1, 2, 8), np.float32)
    for window in range(4):
        features[0, 0, window // 2, 2 * window + window % 2] = np.nan
    feeds = {"wide_features": features, "wide_gradient": np.arange(1, 5, dtype=np.float32)[None, None, None]}
    pooled, made = session(library).run(None, feeds)
    assert np.isnan(pooled).all()
    np.testing.assert_array_equal(made[0, 0], [[0] * 8, [0, 1, 0, 2, 0, 3, 0, 4]])


@pytest.mark.parametrize(
    ("features", "gradient", "text"),
    [
        ((1, 3, 1, 4), (1, 3, 1, 2), r"features have shape \[1, 3, 1, 4\]; at least 2 rows and 2 columns"),
        ((3, 4, 4), (3, 2, 2), r"features have shape \[3, 4, 4\]; N x C x H x W is wanted"),
        (
            (1, 3, 5, 4),
            (1, 3, 3, 2),
            r"the gradient has shape \[1, 3, 3, 2\]; \[1, 3, 2, 2\] belongs to features \[1, 3, 5, 4\]",
        ),
    ],
)
def test_bad_input(library: Path, features: tuple[int, ...], gradient: tuple[int, ...], text: str) -> None:
    feeds = {
        "wide_features": np.ones(features, np.float32),
        "wide_gradient": np.ones(gradient, np.float32),
    }
    with pytest.raises(Exception, match=text):
        session(library).run(None, feeds)


def nhwc_session(library: Path | None, dtype: str, ceil: int) -> Any:
    kind = TYPES[dtype]
    nodes = [
        helper.make_node("Cast", ["features"], ["narrow"], to=kind),
        helper.make_node("NhwcMaxPool2x2", ["narrow"], ["pooled"], domain=DOMAIN, ceil_mode=ceil),
        helper.make_node("Cast", ["pooled"], ["wide"], to=TensorProto.FLOAT),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("features", "wide")]
    proto = helper.make_model(
        helper.make_graph(nodes, "pooling", values[:1], values[1:]),
        functions=bodies(OPSET) if library is None else [],
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)],
        ir_version=10,
    )
    return load(proto.SerializeToString(), library, threads=2)


@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize("dtype", TYPES)
def test_with_channels_last(library: Path, dtype: str, ceil: int) -> None:
    for height, width, channels in [(2, 2, 1), (3, 2, 5), (5, 7, 64), (66, 9, 3), (3, 2047, 2), (2, 3, 1500)]:
        rng = torch.Generator().manual_seed(height)
        x = torch.randn((2, channels, height, width), generator=rng).to(getattr(torch, dtype)).float()
        x[0, 0, 1, 1] = torch.nan
        wanted = F.max_pool2d(x, 2, ceil_mode=bool(ceil)).permute(0, 2, 3, 1).numpy()
        feeds = {"features": x.permute(0, 2, 3, 1).contiguous().numpy()}
        np.testing.assert_array_equal(nhwc_session(library, dtype, ceil).run(None, feeds)[0], wanted)
        if dtype == "float32":
            feeds["features"][0, 1, 1, 0] = 0  # ONNX Runtime's own takes NaN for the smallest.
            wanted = F.max_pool2d(x.nan_to_num(0), 2, ceil_mode=bool(ceil)).permute(0, 2, 3, 1).numpy()
            np.testing.assert_array_equal(nhwc_session(None, dtype, ceil).run(None, feeds)[0], wanted)


def test_with_channels_last_there_has_to_be_a_window(library: Path) -> None:
    with pytest.raises(Exception, match=r"\[1, 1, 4, 3\]; at least 2 rows and 2 columns are wanted"):
        nhwc_session(library, "float32", 0).run(None, {"features": np.ones((1, 1, 4, 3), np.float32)})

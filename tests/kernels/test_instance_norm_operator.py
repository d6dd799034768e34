# SPDX-License-Identifier: Apache-2.0
"""`gantk::InstanceNorm` in ONNX Runtime, against float64: its body on the CPU, its kernels on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from instance_norm_trials import EPSILON, TOLERANCE, Numbers, Trial, cases, numbers_of, reference
from onnx import TensorProto, helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.onnx import OPSET
from gantk.runtime.backends.onnxruntime import CPU_ONLY, native_operators
from gantk.runtime.registry import status
from native_build import onnxruntime_library

onnxruntime = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]
TYPES = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16}
# Trials by the plan alone, as of alignments, are no others to an operator; numpy has no bfloat16 to feed.
TRIALS = [
    call.args[0]
    for _, call in cases("instance_norm")
    if call.args[0].dtype in TYPES and not call.args[0].offset
]


def model(trial: Trial) -> onnx.ModelProto:
    """One node."""
    if not trial.normalizes:
        kind = TYPES[trial.dtype]
        if trial.rectifies:
            return one_node("BiasRelu", {"features": kind, "bias": TensorProto.FLOAT}, kind, {})
        return one_node("BorderedBlocks", {"features": kind}, kind, framing(trial))
    name = (
        "InstanceNormSum" if trial.others is not None else f"InstanceNorm{'Relu' if trial.rectifies else ''}"
    )
    assert trial.others is None or not trial.rectifies
    attributes = framing(trial)
    kind = TYPES[trial.dtype]
    types = {
        "features": kind, "starts": TensorProto.INT64, "ends": TensorProto.INT64, "scale": TensorProto.FLOAT,
        "offset": TensorProto.FLOAT,
    }  # fmt: skip
    if trial.others is not None:
        first, last = trial.others
        attributes["others_pads"] = [0, 0, -first, -first, 0, 0, -last, -last]
        types["others"] = kind
    attributes |= {"epsilon": EPSILON, "from_blocksize": trial.blocks[0]}
    return one_node(name, types, kind, attributes)


def framing(trial: Trial) -> dict[str, Any]:
    """The attributes that all have."""
    above, before, below, after = trial.pads
    pads = [0, 0, above, before, 0, 0, below, after]
    return {"pads": pads, "mode": trial.border, "to_blocksize": trial.blocks[1]}


def one_node(
    name: str, types: Mapping[str, int], kind: int, attributes: Mapping[str, Any]
) -> onnx.ModelProto:
    node = helper.make_node(name, [*types], ["result"], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        name,
        [helper.make_tensor_value_info(each, kind, None) for each, kind in types.items()],
        [helper.make_tensor_value_info("result", kind, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    functions = [body for body in bodies(OPSET) if body.name == name]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def feeds_of(trial: Trial, numbers: Numbers) -> dict[str, Array]:
    if not trial.normalizes:
        bias = {"bias": numbers.offset} if trial.rectifies else {}
        return {"features": numbers.features, **bias}
    feeds = {
        "features": numbers.features,
        "starts": np.array(trial.starts),
        "ends": np.array(trial.ends),
        "scale": numbers.scale,
        "offset": numbers.offset,
    }
    return feeds if trial.others is None else {**feeds, "others": numbers.others}


def run(trial: Trial, feeds: Mapping[str, Array], provider: str, library: Path | None = None) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if library is not None:
        options.add_session_config_entry(CPU_ONLY, "0")
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model(trial).SerializeToString(), options, providers=[provider])
    assert session.get_providers()[0] == provider
    (result,) = session.run(None, dict(feeds))
    return np.asarray(result)


def assert_near(found: Array, trial: Trial, numbers: Numbers) -> None:
    wanted = reference(trial, numbers)
    assert found.shape == wanted.shape
    # As in `instance_norm_trials.check`.
    tolerance = TOLERANCE[trial.dtype] + 2.0**-23 * abs(trial.mean)
    assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.label)
def test_the_body(trial: Trial) -> None:
    numbers = numbers_of(trial)
    assert_near(run(trial, feeds_of(trial, numbers), "CPUExecutionProvider"), trial, numbers)


@pytest.mark.parametrize("native", [False, True])
def test_sizes(native: bool) -> None:
    """By the body, and by the kernel on the CPU that sessions for GPUs have."""
    graph = one_node(
        "Sizes", {"sizes": TensorProto.INT64}, TensorProto.INT64, {"factor": 2, "growth": [-2, 3]}
    )
    if native:
        del graph.functions[:]
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(CPU_ONLY, "0")
    if native:
        options.register_custom_ops_library(str(onnxruntime_library()))
    session = onnxruntime.InferenceSession(
        graph.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (found,) = session.run(None, {"sizes": np.array([7, 10])})
    np.testing.assert_array_equal(found, [12, 23])
    with pytest.raises(Exception, match=r"sizes have shape \[3\]" if native else "Add"):
        session.run(None, {"sizes": np.array([7, 10, 3])})


@pytest.fixture
def library() -> Path:
    named = native_operators()
    if named is None:
        pytest.skip("GANTK_ONNXRUNTIME_OPS names no library of native operators")
    return named


on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in status("onnxruntime").devices, reason="ONNX Runtime has no GPU here"),
]


class TestKernels:
    pytestmark = on_gpu

    @pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.label)
    def test_they_are_near_float64(self, trial: Trial, library: Path) -> None:
        numbers = numbers_of(trial)
        assert_near(run(trial, feeds_of(trial, numbers), "CUDAExecutionProvider", library), trial, numbers)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"scale": np.ones(3, np.float32)}, r"the scale has shape \[3\]; \[32\] or \[2, 32\] is wanted"),
            ({"ends": np.ones(3, np.int64)}, r"ends have shape \[3\]; \[2\] is wanted"),
            ({"starts": np.array([9, 0])}, "nothing is left of the pictures"),
            ({"features": np.ones((2, 1, 1, 32), np.float16)}, "too small for what is to be reflected"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_does_not_fit_is_refused_in_words(
        self, change: dict[str, Array], reason: str, library: Path
    ) -> None:
        trial = TRIALS[0]
        feeds = {**feeds_of(trial, numbers_of(trial)), **change}
        with pytest.raises(Exception, match=reason):
            run(trial, feeds, "CUDAExecutionProvider", library)

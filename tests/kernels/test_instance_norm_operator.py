# SPDX-License-Identifier: Apache-2.0
"""`gantk::InstanceNorm` in ONNX Runtime, against float64: its body and its kernels on the CPU, its kernels on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from instance_norm_trials import EPSILON, TOLERANCE, Numbers, Trial, cases, numbers_of, reference
from onnx import TensorProto, helper

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.runtime.backends.onnxruntime_session import CPU_ONLY
from gantk.runtime.operators import native_operators
from gantk.runtime.registry import status
from native_build import onnxruntime_library

onnxruntime = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]
TYPES = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "bfloat16": TensorProto.BFLOAT16,
}
# Trials by the plan alone, as of alignments, are no others to an operator.
ALL = [call.args[0] for _, call in cases("instance_norm") if not call.args[0].offset]
# ONNX Runtime's own operators have no bfloat16.
TRIALS = [trial for trial in ALL if trial.dtype != "bfloat16"]
# Rows that several tasks share, and vectors of bfloat16.
LARGER = [
    Trial((2, 70, 65, 32), "bfloat16", own=True),
    Trial((1, 90, 50, 48), "bfloat16", others=(1, 2), rectifies=False, border="edge", pads=(2, 0, 1, 3)),
    Trial((1, 30, 33, 4 * 16), "bfloat16", blocks=(2, 2), starts=(1, 1), ends=(-1, -2), border="constant"),
    Trial((3, 41, 64, 40), "float32", mean=300.0, others=(0, 1), rectifies=False),
    Trial((1, 21, 300, 16), "bfloat16", normalizes=False, rectifies=False),
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
    """A file of one node; what numpy does not have, bfloat16, comes and goes as float32."""
    low = [each for each, type_ in types.items() if type_ == TensorProto.BFLOAT16]
    names = [f"{each}.low" if each in low else each for each in types]
    result = "result.low" if low else "result"
    nodes = [helper.make_node("Cast", [each], [f"{each}.low"], to=TensorProto.BFLOAT16) for each in low]
    nodes.append(helper.make_node(name, names, [result], domain=DOMAIN, **attributes))
    if low:
        nodes.append(helper.make_node("Cast", [result], ["result"], to=TensorProto.FLOAT))
    graph = helper.make_graph(
        nodes,
        name,
        [
            helper.make_tensor_value_info(each, TensorProto.FLOAT if each in low else type_, None)
            for each, type_ in types.items()
        ],
        [helper.make_tensor_value_info("result", TensorProto.FLOAT if low else kind, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    functions = [body for body in bodies(OPSET) if body.name == name]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def feeds_of(trial: Trial, numbers: Numbers) -> dict[str, Array]:
    if trial.dtype == "bfloat16":
        wide = {name: getattr(numbers, name).astype(np.float32) for name in ("features", "others")}
        numbers = replace(numbers, **wide)
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


def run(
    trial: Trial,
    feeds: Mapping[str, Array],
    provider: str,
    library: Path | None = None,
    *,
    body: bool = True,
    threads: int = 1,
) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    if library is not None:
        if provider != "CPUExecutionProvider":
            options.add_session_config_entry(CPU_ONLY, "0")
        options.register_custom_ops_library(str(library))
    proto = model(trial)
    if not body:
        del proto.functions[:]
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=[provider])
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


@pytest.mark.parametrize("trial", [*ALL, *LARGER], ids=lambda trial: trial.label)
def test_the_kernels_of_a_cpu(trial: Trial) -> None:
    numbers = numbers_of(trial)
    made = [
        run(
            trial,
            feeds_of(trial, numbers),
            "CPUExecutionProvider",
            onnxruntime_library(),
            body=False,
            threads=threads,
        )
        for threads in (1, 3)
    ]
    assert_near(made[0], trial, numbers)
    np.testing.assert_array_equal(made[0], made[1])  # The number of threads decides nothing.


REFUSED = [
    ({"scale": np.ones(3, np.float32)}, r"the scale has shape \[3\]; \[32\] or \[2, 32\] is wanted"),
    ({"ends": np.ones(3, np.int64)}, r"ends have shape \[3\]; \[2\] is wanted"),
    ({"starts": np.array([9, 0])}, "nothing is left of the pictures"),
    ({"features": np.ones((2, 1, 1, 32), np.float16)}, "too small for what is to be reflected"),
]


def assert_refused(change: dict[str, Array], reason: str, provider: str, library: Path) -> None:
    trial = TRIALS[0]
    feeds = {**feeds_of(trial, numbers_of(trial)), **change}
    with pytest.raises(Exception, match=reason):
        run(trial, feeds, provider, library)


@pytest.mark.parametrize(
    ("change", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_does_not_fit_is_refused_in_words(change: dict[str, Array], reason: str) -> None:
    assert_refused(change, reason, "CPUExecutionProvider", onnxruntime_library())


@pytest.mark.parametrize("blocks", [0, -1, 17, 1 << 32])
def test_blocks_of_other_sizes_are_refused_before_anything_is_divided_by_them(blocks: int) -> None:
    trial = replace(TRIALS[0], blocks=(blocks, 1), normalizes=True, rectifies=True, others=None)
    options = onnxruntime.SessionOptions()
    options.register_custom_ops_library(str(onnxruntime_library()))
    with pytest.raises(Exception, match=f"from_blocksize is {blocks}; 1 to 16 is wanted"):
        onnxruntime.InferenceSession(
            model(trial).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


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
    named = native_operators("cuda")
    if named is None:
        pytest.skip("native operators for GPUs are not installed (kernels/onnxruntime/README.md)")
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
        ("change", "reason"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
    )
    def test_what_does_not_fit_is_refused_in_words(
        self, change: dict[str, Array], reason: str, library: Path
    ) -> None:
        assert_refused(change, reason, "CUDAExecutionProvider", library)

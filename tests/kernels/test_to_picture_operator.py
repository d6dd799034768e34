# SPDX-License-Identifier: Apache-2.0
"""`gantk::ToPicture` in ONNX Runtime, against float64: its body on the CPU, its kernel on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from to_picture_trials import TOLERANCE, Numbers, Trial, cases, numbers_of, reference

from gantk.export.functions import DOMAIN, VERSION, bodies
from gantk.export.opset import OPSET
from gantk.runtime.backends.onnxruntime_session import CPU_ONLY
from gantk.runtime.operators import native_operators
from gantk.runtime.registry import status

onnxruntime = pytest.importorskip("onnxruntime")

Array = np.ndarray[Any, Any]
TRIALS = [call.args[0] for _, call in cases("to_picture")] + [
    Trial((2, 64, 64, 64)),
    Trial((5, 33, 70, 128), 1),
]


def model() -> onnx.ModelProto:
    """One node."""
    half, single = TensorProto.FLOAT16, TensorProto.FLOAT
    types = {"features": half, "before": single, "weights": half, "bias": single}
    graph = helper.make_graph(
        [helper.make_node("ToPicture", [*types], ["picture"], domain=DOMAIN)],
        "ToPicture",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in types.items()],
        [helper.make_tensor_value_info("picture", half, None)],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, VERSION)]
    functions = [body for body in bodies(OPSET) if body.name == "ToPicture"]
    return helper.make_model(graph, functions=functions, opset_imports=opsets, ir_version=10)


def run(numbers: Numbers, provider: str, library: Path | None = None) -> Array:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    if provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()
    if library is not None:
        options.add_session_config_entry(CPU_ONLY, "0")
        options.register_custom_ops_library(str(library))
    session = onnxruntime.InferenceSession(model().SerializeToString(), options, providers=[provider])
    assert session.get_providers()[0] == provider
    feeds = {name: getattr(numbers, name) for name in ("features", "before", "weights", "bias")}
    (picture,) = session.run(None, feeds)
    return np.asarray(picture)


@pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.label)
def test_its_body_is_near_float64(trial: Trial) -> None:
    numbers = numbers_of(trial)
    # What the convolution yields is rounded too, to float16.
    np.testing.assert_allclose(
        run(numbers, "CPUExecutionProvider"), reference(numbers), rtol=0, atol=3 * TOLERANCE
    )


on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif("cuda" not in status("onnxruntime").devices, reason="ONNX Runtime has no GPU here"),
]


class TestOnGpu:
    pytestmark = on_gpu

    @pytest.fixture
    def library(self) -> Path:
        named = native_operators("cuda")
        if named is None:
            pytest.skip("native operators for GPUs are not installed (kernels/onnxruntime/README.md)")
        return named

    @pytest.mark.parametrize("trial", TRIALS, ids=lambda trial: trial.label)
    def test_its_kernel_is_near_float64(self, trial: Trial, library: Path) -> None:
        numbers = numbers_of(trial)
        found = run(numbers, "CUDAExecutionProvider", library)
        np.testing.assert_allclose(found, reference(numbers), rtol=0, atol=TOLERANCE)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"before": np.zeros(5, np.float32)}, r"the bias before has shape \[5\]; \[40\] is wanted"),
            ({"bias": np.zeros(2, np.float32)}, r"the bias has shape \[2\]; \[3\] is wanted"),
            ({"weights": np.zeros((40, 3, 3, 3), np.float16)}, "weights of 40 x M x 4 x 4 are wanted"),
            ({"features": np.zeros((1, 5, 40), np.float16)}, "N x H x W x C is wanted"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_what_does_not_fit_is_refused_in_words(
        self, change: dict[str, Array], reason: str, library: Path
    ) -> None:
        numbers = numbers_of(Trial((1, 5, 7, 40)))
        given = {name: change.get(name, value) for name, value in vars(numbers).items()}
        with pytest.raises(Exception, match=reason):
            run(Numbers(**given), "CUDAExecutionProvider", library)

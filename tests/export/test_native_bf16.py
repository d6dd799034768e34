# SPDX-License-Identifier: Apache-2.0
"""Where a backend has no bf16 of its own, the form of native operators alone is tried, and kept if it runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from fake_half import FakeHalfRunner
from gantk.bundle import WHOLLY_NATIVE, Variant
from gantk.export import rewritten, verify
from gantk.export.network import Network
from gantk.export.original import VariantFile
from gantk.export.reference import Feeds, Outputs
from gantk.export.torch_reference import run_torch
from gantk.export.variants import make_variants
from gantk.runtime.backends import onnxruntime
from gantk.runtime.model import Model, from_bytes
from gantk.runtime.operators import OPERATORS
from gantk.runtime.registry import BackendStatus
from traced_pictures import make_short_network, prepare, silent

pytestmark = pytest.mark.usefixtures("traced_once")


@pytest.fixture(scope="module")
def short(traced_once: None) -> Network:
    return prepare(make_short_network())


Export = Callable[..., list[VariantFile]]


@pytest.fixture
def make(short: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Export:
    """Exports in bf16 on a machine whose library of native operators does what it is told to."""
    library = tmp_path / "operators.so"
    library.touch()
    monkeypatch.setenv(OPERATORS, str(library))
    monkeypatch.setattr("gantk.export.network.locate", lambda *_: None)
    monkeypatch.setattr(rewritten, "speedup", lambda *_: 1.0)

    def export(
        how: str, openvino: str | None = "right", precision: str = "bf16", report: Any = silent
    ) -> Any:
        behaviour = {onnxruntime.NAME: how, "openvino": openvino}

        def compute(feed: Feeds) -> Outputs:
            return run_torch(short.module, short.inputs, short.outputs, [feed], precision).outputs[0]

        def open_model(model: Model, name: str) -> FakeHalfRunner:
            assert name != onnxruntime.NAME or model.is_wholly_native or precision != "bf16"
            return FakeHalfRunner(compute, name, behaviour[name] or "")

        monkeypatch.setattr(verify, "open_model", open_model)
        monkeypatch.setattr(verify, "working_backends", lambda _: ("openvino",) if openvino else ())
        monkeypatch.setattr(verify, "measurable_backends", lambda _: ("openvino",) if openvino else ())
        return make_variants(short, precision, report)

    return export


@pytest.mark.parametrize("openvino", ["right", None])
def test_it_is_kept_where_it_runs_right(make: Export, openvino: str | None) -> None:
    lines: list[str] = []
    plain, native = make("right", openvino, report=lines.append)
    assert lines[-1] == f"  bf16 on onnxruntime: {WHOLLY_NATIVE} makes it run"
    assert (plain.variant.form, plain.variant.fastest_on) == ("plain", ("openvino",) if openvino else ())
    variant = native.variant
    assert (variant.form, variant.rewrites) == ("rewritten", (WHOLLY_NATIVE,))
    assert variant.fastest_on == (onnxruntime.NAME,)
    assert variant.gains == {}  # There is nothing that it was measured against.
    assert Variant.from_json(variant.to_json()) == variant
    assert variant.is_native and variant.is_wholly_native
    assert {parity.backend for parity in variant.parity if parity.passed} >= {onnxruntime.NAME, "torch"}
    model = from_bytes(native.data)
    assert (model.precision, model.form, model.is_wholly_native) == ("bf16", "rewritten", True)
    assert not from_bytes(plain.data).is_wholly_native


@pytest.mark.parametrize(
    ("how", "says"), [("unloadable", "cannot load"), ("failing", "cannot run"), ("wrong", "dB PSNR")]
)
def test_it_is_left_out_where_it_does_not(make: Export, how: str, says: str) -> None:
    lines: list[str] = []
    (plain,) = make(how, report=lines.append)
    assert plain.variant.form == "plain"
    assert lines[-1].startswith(f"  bf16: {WHOLLY_NATIVE} is left out, for ")
    assert says in lines[-1]


def test_where_the_library_is_not_nothing_is_tried(make: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPERATORS, "")
    lines: list[str] = []
    (plain,) = make("right", report=lines.append)
    assert plain.variant.fastest_on == ()
    assert not any(WHOLLY_NATIVE in line for line in lines)


def test_in_fp32_nothing_is_tried(make: Export, short: Network) -> None:
    assert verify.native_backends("fp32") == verify.native_backends("fp16") == ()
    files = make("right", precision="fp32")
    assert not any(file.variant.is_wholly_native for file in files)


def test_on_a_gpu_nothing_is_tried(make: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    """There ONNX Runtime has bf16 itself."""
    monkeypatch.setattr(verify, "status", lambda name: BackendStatus(name, "1", ("cuda",)))
    assert verify.native_backends("bf16") == ()
    (plain,) = make("right")
    assert plain.variant.form == "plain"


def test_another_backends_own_form_stands_beside_it(make: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rewritten, "speedup", lambda *_: 1.5)
    plain, other, native = make("right")
    assert plain.variant.fastest_on == ()
    assert (other.variant.fastest_on, other.variant.is_native) == (("openvino",), False)
    assert set(other.variant.gains) == {"openvino"}
    assert (native.variant.fastest_on, native.variant.gains) == ((onnxruntime.NAME,), {})


def test_what_pytorch_traced_has_no_transpose_left(make: Export) -> None:
    _, native = make("right")
    proto = onnx.load_from_string(native.data)
    found = {node.op_type for node in proto.graph.node if not node.domain}
    assert found == {"Cast", "Clip", "Round", "Shape", "Slice"}

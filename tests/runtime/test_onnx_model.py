# SPDX-License-Identifier: Apache-2.0
"""Reading ONNX files of any origin."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

import networks
from gantk.errors import GantkError
from gantk.runtime.model import from_bytes, from_path
from gantk.runtime.onnx_file import is_onnx, refuse_external, without_functions
from gantk.runtime.registry import open_model, status
from gantk.tensors import TensorSpec


def foreign(shape: list[Any], kind: int = TensorProto.FLOAT, name: str = "x", **options: Any) -> bytes:
    value = helper.make_tensor_value_info(name, kind, shape)
    result = helper.make_tensor_value_info("y", kind, shape)
    node = helper.make_node("Identity", [name], ["y"])
    graph = helper.make_graph([node], "g", [value], [result], **options)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def test_our_own_file() -> None:
    model = from_bytes(networks.generator())
    assert (model.inputs, model.outputs) == tuple((spec,) for spec in networks.specs())
    assert (model.name, model.precision, model.form, model.config) == ("tiny", "fp32", "plain", {"size": 8})
    assert not model.external
    assert len(repr(model)) < 1000  # Weights are not printed.


@pytest.mark.parametrize("name", ["model", "model.safetensors", "model.ONNX"])
def test_a_file_is_known_by_its_beginning(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(networks.generator())
    assert is_onnx(path)
    # A header of 8 bytes: the two formats begin alike.
    path.write_bytes((8).to_bytes(8, "little") + b"{}      ")
    assert is_onnx(path) == (name == "model.ONNX")
    assert not is_onnx(tmp_path)
    assert not is_onnx(tmp_path / "missing.onnx")


def test_without_metadata_the_graph_tells() -> None:
    model = from_bytes(networks.generator(metadata=False), Path("some/where.onnx"))
    assert [str(spec) for spec in (*model.inputs, *model.outputs)] == [
        "latent: float32[N x 4]",
        "picture: float32[N x 3 x 8 x 8]",
    ]
    assert (model.name, model.outputs[0].range) == ("where", None)


@pytest.mark.parametrize(
    "facts",
    [
        {"gantk.outputs": [networks.specs(pictures=True)[1].to_json()]},
        {"gantk.outputs": [{**networks.specs()[1].to_json(), "shape": ["N", 3, 9, 9]}]},
        {"gantk.outputs": [{**networks.specs()[1].to_json(), "name": "other"}]},
        {"gantk.outputs": [{**networks.specs()[1].to_json(), "range": [1, -1]}]},
        {"gantk.outputs": "[" * 9999, "gantk.inputs": "{}", "gantk.model": "null", "gantk.form": "odd"},
        {"gantk.outputs": '[{"range": [Infinity, NaN]}]', "gantk.model": '{"name": 3, "config": []}'},
        {"gantk.outputs": "5", "gantk.model": "[1]", "gantk.form": "[]"},
    ],
)
def test_metadata_is_not_believed_against_the_graph(facts: dict[str, Any]) -> None:
    proto = onnx.load_from_string(networks.generator(metadata=False))
    for key, value in facts.items():
        text = value if isinstance(value, str) else json.dumps(value)
        proto.metadata_props.append(onnx.StringStringEntryProto(key=key, value=text))
    model = from_bytes(proto.SerializeToString())
    assert model.outputs == (TensorSpec("picture", "float32", ("N", 3, 8, 8)),)
    assert (model.form, model.name, model.config) == ("plain", "generator", {})


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [
        (["N", 3], ("N", 3)),
        ([1, 3], (1, 3)),
        ([None, None], ("size_0", "size_1")),
        (["size_0", None], ("size_0", "size_1")),
        (["2*H", "2*H"], ("2*H", "2*H")),
        (["batch.size", 0, -1], ("batch_size", "size_0", "size_1")),
        (["?", "é"], ("size_0", "size_1")),
        ([], ()),
    ],
)
def test_symbols(shape: list[Any], wanted: tuple[Any, ...]) -> None:
    sizes = from_bytes(foreign(shape)).inputs[0].shape
    assert sizes == tuple("_2_H" if size == "2*H" else size for size in wanted)


@pytest.mark.parametrize("name", ["495", "input:0", "serving_default_x/y", "a b", "x.1", "data[0]"])
def test_other_exporters_names(name: str) -> None:
    assert from_bytes(foreign([1], name=name)).inputs[0].name == name


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (TensorProto.STRING, "type string"),
        (TensorProto.COMPLEX64, "complex64"),
        (TensorProto.FLOAT8E4M3FN, "float8e4m3fn"),
        (99, "has type number 99"),
    ],
)
def test_types_that_cannot_be_fed(kind: int, says: str) -> None:
    with pytest.raises(GantkError, match=says):
        from_bytes(foreign([1], kind))


def test_old_files_list_their_weights_as_inputs() -> None:
    proto = onnx.load_from_string(networks.generator())
    for tensor in proto.graph.initializer:
        proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    assert [spec.name for spec in from_bytes(proto.SerializeToString()).inputs] == ["latent"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_precision_is_that_of_the_weights(precision: str) -> None:
    assert from_bytes(networks.generator(precision)).precision == precision


def test_quantised_files_are_int8() -> None:
    x, y = (TensorSpec(name, kind, (4,)) for name, kind in (("x", "float32"), ("y", "uint8")))
    weights = {"scale": np.float32(0.1), "zero": np.uint8(3)}
    assert from_bytes(networks.simple("QuantizeLinear", [x], y, weights)).precision == "int8"


@given(st.integers(0, 10**6))
@settings(max_examples=60)
def test_a_file_cut_anywhere_is_refused_or_understood(at: int) -> None:
    data = networks.generator()
    try:
        model = from_bytes(data[: at % len(data)])
    except GantkError as error:
        assert error.hint is not None
    else:
        assert model.outputs  # Protobuf cannot see a cut between two fields; a backend will.


@given(st.binary(max_size=400))
@settings(max_examples=150)
def test_rubbish_is_refused(data: bytes) -> None:
    with pytest.raises(GantkError, match="is not an ONNX file"):
        from_bytes(data)


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=8))
@settings(max_examples=150)
def test_a_damaged_file_is_refused_or_understood(at: int, patch: bytes) -> None:
    data = bytearray(networks.generator())
    data[at % len(data) : at % len(data) + len(patch)] = patch
    with contextlib.suppress(GantkError):
        from_bytes(bytes(data))


@pytest.mark.parametrize("place", ["/etc/passwd", "../w.bin", "a/../../w.bin", "link/w.bin", "nul\0", "loop"])
def test_weights_outside_the_folder(tmp_path: Path, place: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(9999))
    (folder / "link").symlink_to(tmp_path)
    (folder / "loop").symlink_to("loop")
    proto = onnx.load_from_string(networks.generator())
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = tensor.EXTERNAL
    tensor.external_data.append(onnx.StringStringEntryProto(key="location", value=place))
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GantkError, match="lie outside its folder"):
        from_path(folder / "m.onnx")
    tensor.external_data[0].value = "absent.bin"
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(GantkError, match="does not exist"):
        from_path(folder / "m.onnx")


def test_a_precision_that_a_lone_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(networks.generator())
    with pytest.raises(GantkError, match=r"is fp32 \(plain\), not fp16 \(plain\)"):
        from_path(tmp_path / "m.onnx", precision="fp16")


def test_a_file_that_is_too_large(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as stream:
        stream.truncate(2**31)  # Sparse.
    with pytest.raises(GantkError, match="at most 2147483647"):
        from_path(tmp_path / "m.onnx")


def with_functions(kind: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = twice(x), where twice is a local function."""
    value = [helper.make_tensor_value_info(name, kind, ["N"]) for name in "xy"]
    body = helper.make_function(
        "gantk", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])],
        [helper.make_opsetid("", 20)],
    )  # fmt: skip
    node = helper.make_node("Twice", ["x"], ["y"], domain="gantk")
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("gantk", 1)]
    graph = helper.make_graph([node], "twice", value[:1], value[1:])
    return helper.make_model(graph, functions=[body], opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_local_functions_run_everywhere(backend: str) -> None:
    if not status(backend).works:
        pytest.skip(f"{backend} is not here")
    with open_model(from_bytes(with_functions().SerializeToString()), backend) as runner:
        values = np.array([1.5, -2.0], np.float32)
        np.testing.assert_array_equal(runner.run({"x": values})["y"], 2 * values)


def test_only_files_with_functions_are_written_anew() -> None:
    plain = networks.generator()
    assert without_functions(plain) is plain
    for much in (0, 200, 20_000):  # Before the functions: its length takes one byte, two, or three.
        proto = with_functions()
        proto.model_version, proto.graph.doc_string = much, "." * much
        inlined = onnx.load_from_string(without_functions(proto.SerializeToString()))
        assert [node.op_type for node in inlined.graph.node] == ["Add"]
        assert not inlined.functions


def test_a_word_is_no_file_elsewhere() -> None:
    proto = onnx.load_from_string(networks.generator())
    proto.doc_string = "location"
    refuse_external(proto.SerializeToString(), "x.onnx")

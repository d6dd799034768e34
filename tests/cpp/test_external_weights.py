# SPDX-License-Identifier: Apache-2.0
"""Files of a bundle that read others, whose hashes nobody has checked: C++ refuses them as Python does."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

import gantk
import networks
from cpp_library import Library
from gantk.errors import GantkError


def external(location: str = "secret.bin") -> onnx.TensorProto:
    tensor = onnx.TensorProto(name="w", dims=[1], data_type=onnx.TensorProto.FLOAT)
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def reading_others(place: str) -> bytes:
    """A network one of whose tensors lies in another file; they may be at many places."""
    model = onnx.load_from_string(networks.generator())
    graph, constant = model.graph, onnx.NodeProto(op_type="Constant", output=["c"])
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(external())
    match place:
        case "initializer":
            graph.initializer.append(external())
        case "sparse":
            graph.sparse_initializer.add(values=external())
        case "attribute":
            graph.node.append(constant)
        case "list":
            graph.node.add(op_type="X", output=["c"]).attribute.add(name="v").tensors.append(external())
        case "branch":
            branch = onnx.GraphProto(node=[constant])
            graph.node.add(op_type="If", output=["c"]).attribute.add(name="then_branch").g.CopyFrom(branch)
        case "function":
            model.functions.add(name="f", domain="gantk", node=[constant])
        case "cut":
            graph.initializer.insert(0, external())
            data = model.SerializeToString()
            return data[: len(data) // 2]
        case "wordless":  # No data_location: it is as good as said.
            graph.initializer.append(external())
            graph.initializer[-1].ClearField("data_location")
    return model.SerializeToString()


@pytest.mark.parametrize(
    "place", ["initializer", "sparse", "attribute", "list", "branch", "function", "cut", "wordless"]
)
def test_both_refuse_a_file_that_reads_others(library: Library, tmp_path: Path, place: str) -> None:
    path = tmp_path / "x.gantk"
    networks.bundle(path, {("fp32", "plain"): reading_others(place)})
    said = []
    for open_bundle in (library.open, gantk.open):
        with pytest.raises(GantkError) as caught:
            open_bundle(path, backend="onnxruntime", device="cpu")
        said.append((caught.value.what, caught.value.where, caught.value.hint))
    assert said[0] == said[1]
    assert ("of which the bundle has no hashes" in said[0][0]) == (place != "cut")


def test_the_word_alone_harms_nobody(library: Library, tmp_path: Path) -> None:
    model = onnx.load_from_string(networks.generator())
    model.doc_string = "location"
    networks.bundle(tmp_path / "x.gantk", {("fp32", "plain"): model.SerializeToString()})
    feeds = {"latent": networks.latents(1)}
    with library.open(tmp_path / "x.gantk") as cpp, gantk.open(tmp_path / "x.gantk", "onnxruntime") as python:
        assert (cpp.run(feeds)["picture"] == python.run(feeds)["picture"]).all()

# SPDX-License-Identifier: Apache-2.0
"""Networks from pictures to pictures: any size, pixels on both sides, and every fault refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from safetensors.numpy import load

import gantk
from bundle_engines import make_engine, usual_engine
from gantk import checkpoint
from gantk.bundle import Bundle, Interface
from gantk.errors import GantkError
from gantk.export import export, pipeline, verify
from gantk.export.engines.profiles import make_profiles
from gantk.export.network import Network
from gantk.export.onnx import trace
from gantk.export.serialize import serialize
from gantk.export.variants import make_variants
from gantk.runtime.arrays import random_feeds
from gantk.runtime.model import from_bytes
from gantk.runtime.probe import probe_of
from gantk.runtime.registry import open_model
from traced_pictures import REWRITTEN, check_sizes, file_of, make_network, make_short_network, prepare, silent


@pytest.fixture(scope="module")
def plain(traced_once: None) -> Network:
    return prepare(make_network("style", width=4, blocks=1))


@pytest.fixture(scope="module")
def short(traced_once: None) -> Network:
    return prepare(make_short_network())


@pytest.fixture(scope="module", params=["one style", "adain"])
def network(request: pytest.FixtureRequest, plain: Network) -> Network:
    return plain if request.param == "one style" else prepare(make_network("adain", layer="relu2_1"))


@pytest.mark.parametrize("names", [(), *REWRITTEN], ids=lambda names: "+".join(names) or "plain")
@pytest.mark.parametrize("backend", verify.working_backends("fp32"))
def test_every_size_comes_out_as_pytorch_makes_it(
    network: Network, backend: str, names: tuple[str, ...]
) -> None:
    if network.generator.family == "adain" and names[:1] == ("enlarged-to-subpixel",):
        pytest.skip("as for the others")
    check_sizes(network, backend, names)


def test_pixels_enter_the_first_convolution_as_they_are(plain: Network) -> None:
    nodes = onnx.load_from_string(file_of(plain)).graph.node
    assert [node.op_type for node in nodes if node.op_type != "Shape"][:4] == [
        "Cast",
        "Transpose",
        "Pad",
        "Conv",
    ]
    assert [node.op_type for node in nodes[-4:]] == ["Round", "Clip", "Transpose", "Cast"]
    assert "Mul" not in {node.op_type for node in nodes}


def test_a_picture_too_small_is_refused_in_words(plain: Network) -> None:
    with open_model(from_bytes(file_of(plain)), "onnxruntime", threads=1) as runner:
        with pytest.raises(GantkError, match=r"7 x 30 pixels .* at least 8 x 8"):
            runner.run({"picture": np.zeros((1, 30, 7, 3), np.uint8)})
        assert runner.run({"picture": np.zeros((1, 8, 30, 3), np.uint8)})["stylized"].shape == (1, 8, 30, 3)


@pytest.fixture(scope="module")
def bundle(traced_once: None, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("style")
    source = folder / "tiny.safetensors"
    source.write_bytes(checkpoint.generator_bytes(make_network("style", width=4, blocks=1)))
    return export(source, folder / "tiny.gantk", precisions=("fp32", "fp16", "bf16"), rewrites=False)


def test_a_bundle_of_pictures_has_pixels_any_size_and_a_small_probe(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert [str(spec) for spec in (*manifest.inputs, *manifest.outputs)] == [
        "picture: uint8[N x H x W x 3]",
        "stylized: uint8[N x H x W x 3]",
    ]
    assert manifest.inputs[0].smallest == 8
    assert manifest.probe is not None
    probe = load(bundle.read_file(manifest.probe))
    assert probe["input.picture"].shape == (4, 64, 80, 3)
    assert manifest.probe.size_bytes < 130_000
    with gantk.open(bundle.root) as runner:
        made = runner.run({"picture": probe["input.picture"]})["stylized"]
    assert np.abs(made.astype(int) - probe["output.stylized"]).max() <= 1


def test_the_parity_tells_its_sizes(bundle: Bundle) -> None:
    for variant in bundle.manifest.variants:
        for parity in variant.parity:
            assert (parity.batches, parity.sizes) == ((1, 3, 2), ((96, 128), (37, 61), (50, 23)))
            assert parity.passed
    full = bundle.find("fp32").parity
    assert all(parity.max_abs is not None and parity.max_abs <= 1 for parity in full)


def test_a_lone_file_knows_the_smallest_size(bundle: Bundle) -> None:
    with gantk.open(bundle.root / bundle.find("fp32").file.path) as runner:
        assert runner.inputs == bundle.manifest.inputs


def test_engines_of_the_usual_shapes_can_be_verified(bundle: Bundle) -> None:
    for variant in bundle.manifest.variants:
        assert probe_of(bundle, usual_engine(bundle, variant))
    large = make_profiles(
        Interface(bundle.manifest.inputs, bundle.manifest.outputs), None, ["picture=1x99x99x3"]
    )
    assert not probe_of(bundle, make_engine(bundle.find("fp32"), {}, profiles=large))


def test_a_bundle_exported_again_has_the_same_graphs_and_probe(bundle: Bundle) -> None:
    again = prepare(checkpoint.load_generator(bundle.root).module)
    assert pipeline._probe(again) == bundle.read_file(bundle.manifest.probe)
    for precision in ("fp32", "fp16"):
        first = onnx.load_from_string(bundle.read_file(bundle.find(precision).file))
        second = onnx.load_from_string(file_of(again, precision=precision))
        assert second.graph.SerializeToString() == first.graph.SerializeToString()


def test_tracing_again_gives_the_same_file(short: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch counts the symbols of its sizes; a second trace must not show it."""
    monkeypatch.setattr(pipeline, "trace", trace)
    assert file_of(prepare(make_short_network())) == file_of(short)


def test_floats_are_exported_where_asked_for(short: Network) -> None:
    other = prepare(short.generator.module, pictures=False)
    assert str(other.inputs[0]) == "picture: float32[N x 3 x H x W]"
    pixels = random_feeds(short.inputs, {"H": 21, "W": 18})["picture"]
    files = [from_bytes(file_of(network)) for network in (short, other)]
    with (
        open_model(files[0], "onnxruntime", threads=1) as a,
        open_model(files[1], "onnxruntime", threads=1) as b,
    ):
        made = a.run({"picture": pixels})["stylized"]
        floats = b.run({"picture": (pixels / np.float32(255)).transpose(0, 3, 1, 2)})["stylized"]
    exact = np.clip(255 * floats.transpose(0, 2, 3, 1), 0, 255)
    np.testing.assert_allclose(made, exact, atol=0.51)


def plant(monkeypatch: pytest.MonkeyPatch, layer: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    """Let every file that is serialised have other weights in a layer."""
    honest = serialize

    def faulty(*args: object, **kwargs: object) -> bytes:
        model = onnx.load_from_string(honest(*args, **kwargs))  # type: ignore[arg-type]
        node = next(node for node in model.graph.node if node.name == layer)
        tensor = next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])
        weights = np.ascontiguousarray(edit(numpy_helper.to_array(tensor).copy()))
        tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
        return model.SerializeToString()

    monkeypatch.setattr("gantk.export.original.serialize", faulty)


def wrong_weight(weight: np.ndarray) -> np.ndarray:
    weight[1, 2, 0, 1] += 0.5
    return weight


def swapped_channels(weight: np.ndarray) -> np.ndarray:
    return weight[:, ::-1]


def mirrored(weight: np.ndarray) -> np.ndarray:
    return weight[:, :, :, ::-1]


@pytest.mark.parametrize(
    ("layer", "edit"),
    [
        ("blocks.0.convolve.conv/Conv", wrong_weight),
        ("shrink.0.convolve.conv/Conv", swapped_channels),
        ("paint.conv/Conv", mirrored),
    ],
)
def test_a_fault_in_the_file_is_refused_and_located(
    plain: Network, monkeypatch: pytest.MonkeyPatch, layer: str, edit: Callable[[np.ndarray], np.ndarray]
) -> None:
    plant(monkeypatch, layer, edit)
    with pytest.raises(GantkError, match="dB PSNR") as caught:
        make_variants(plain, "fp32", silent, rewrites=False)
    assert f"layer `{layer}` is the first to part" in caught.value.what


def test_a_layer_that_overflows_is_refused_in_fp16(plain: Network) -> None:
    """An instance norm undoes any scale of the convolution before it: the same function, beyond fp16."""
    graph = ir.from_proto(ir.to_proto(plain.traced.graph))
    value = graph.graph.initializers["blocks.0.layer.convolve.conv.weight"]
    assert value.const_value is not None
    value.const_value = ir.Tensor(value.const_value.numpy() * np.float32(1e6), name=value.name)
    loud = replace(plain, traced=replace(plain.traced, graph=graph))
    make_variants(loud, "fp32", silent, rewrites=False)
    with pytest.raises(
        GantkError, match=r"layer `blocks\.0\.layer\.convolve\.conv/Conv` reaches .* fp16 is safe"
    ):
        make_variants(loud, "fp16", silent, rewrites=False)


def test_instance_norms_are_float32_islands(plain: Network) -> None:
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(file_of(plain, precision="fp16")))
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    types.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    norms = [node for node in model.graph.node if node.op_type == "InstanceNormalization"]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert norms
    assert {types[name] for node in norms for name in node.input} == {onnx.TensorProto.FLOAT}
    assert {types[name] for node in convolutions for name in node.input} == {onnx.TensorProto.FLOAT16}

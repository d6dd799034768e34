# SPDX-License-Identifier: Apache-2.0
"""A bias that is normalised away, and normalisation in fp16, each proven equal to what it replaces."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from export_graphs import kinds, make_graph, picture, run
from gantk.export import rewritten, verify
from gantk.export.network import Network
from gantk.export.precision import IN_HALF, convert
from gantk.export.rewrites import NATIVE, ONLY_ON, rewrite
from gantk.export.variants import make_variants
from gantk.runtime.backends import onnxruntime
from gantk.runtime.model import from_bytes
from gantk.runtime.operators import OPERATORS
from gantk.runtime.registry import BACKENDS, BackendStatus, status
from native_build import onnxruntime_library
from traced_pictures import make_short_network, prepare, silent

BIAS, EIGHTS, IN_HALVES = "normalized-bias", "narrow-to-eights", "normalization-in-half"


def normalized(
    operator: str = "Conv",
    inputs: int = 3,
    outputs: int = 4,
    *,
    bias: bool = True,
    enlarge: bool = False,
    between: Sequence[str] = (),
    norm: str = "InstanceNormalization",
    seed: int = 0,
) -> ir.Model:
    """A convolution with a bias, maybe something, an instance normalisation and a ReLU."""
    random = np.random.default_rng(seed)
    axes = (outputs, inputs) if operator == "Conv" else (inputs, outputs)
    weights = {
        "scales": np.array([1, 1, 2, 2], np.float32),
        "w": random.standard_normal((*axes, 3, 3)).astype(np.float32),
        "b": random.uniform(-3, 3, outputs).astype(np.float32),
        "g": random.uniform(0.5, 2, outputs).astype(np.float32),
        "o": random.standard_normal(outputs).astype(np.float32),
    }
    steps: list[tuple[str, list[str], dict[str, object]]] = [
        (operator, ["w", "b"] if bias else ["w"], {"pads": [1, 1, 1, 1]}),
        *((kind, [], {}) for kind in between),
        (norm, ["g", "o"] if norm == "InstanceNormalization" else [], {}),
        ("Relu", [], {}),
    ]
    if enlarge:
        nearest = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor", "mode": "nearest"}
        steps.insert(0, ("Resize", ["", "scales"], nearest))
    value, nodes = "x", []
    for index, (kind, rest, attributes) in enumerate(steps):
        made = "y" if index == len(steps) - 1 else f"t{index}"
        nodes.append(helper.make_node(kind, [value, *rest], [made], name=f"{kind}{index}", **attributes))
        value = made
    used = {name for node in nodes for name in node.input}
    return make_graph(nodes, {name: a for name, a in weights.items() if name in used}, inputs, outputs)


def biases(graph: ir.Model) -> int:
    return sum(node.op_type in ("Conv", "ConvTranspose") and len(node.inputs) > 2 for node in graph.graph)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    operator=st.sampled_from(["Conv", "ConvTranspose"]),
    batch=st.integers(1, 3),
    inputs=st.integers(1, 5),
    outputs=st.integers(1, 7),
    height=st.integers(3, 9),
    width=st.integers(3, 9),
    seed=st.integers(0, 100),
)
def test_a_bias_before_a_normalisation_does_nothing(
    operator: str, batch: int, inputs: int, outputs: int, height: int, width: int, seed: int
) -> None:
    graph = normalized(operator, inputs, outputs, seed=seed)
    other = rewrite(graph, [BIAS])
    assert other is not None
    assert kinds(other) == kinds(graph)
    assert (biases(graph), biases(other)) == (1, 0)
    assert set(other.graph.initializers) == set(graph.graph.initializers) - {"b"}
    x = picture(batch, inputs, height, width, seed)
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=5e-5)
    low, wanted = run(convert(other, "fp16"), x), run(convert(graph, "fp16"), x)
    np.testing.assert_allclose(low, wanted, atol=0.02)


def test_what_has_no_bias_any_more_has_another_name() -> None:
    """By which no layer is taken for the one at fault that only lacks what it had."""
    graph = normalized()
    other = rewrite(graph, [BIAS])
    assert other is not None
    one, two = ([node.outputs[0].name for node in each.graph] for each in (graph, other))
    assert one[0] != two[0]
    assert one[1:] == two[1:]


@pytest.mark.parametrize(
    "graph",
    [
        normalized(bias=False),
        normalized(between=["Relu"]),
        normalized(norm="MeanVarianceNormalization", between=["Tanh"]),
        normalized(norm="Tanh"),
    ],
    ids=["no bias", "not linear between", "another normalisation", "no normalisation"],
)
def test_other_biases_stay(graph: ir.Model) -> None:
    assert rewrite(graph, [BIAS]) is None


def test_a_bias_that_something_else_sees_stays() -> None:
    shown = normalized()
    convolved = shown.graph[0].outputs[0]
    convolved.type = ir.TensorType(ir.DataType.FLOAT)
    shown.graph.outputs.append(convolved)
    assert rewrite(shown, [BIAS]) is None
    residual = normalized()
    residual.graph[2].replace_input_with(0, residual.graph[0].outputs[0])
    assert rewrite(residual, [BIAS]) is None


@pytest.mark.parametrize("name", ["enlarged-to-transposed", "enlarged-to-subpixel"])
def test_an_enlargement_without_a_bias_is_given_none(name: str) -> None:
    graph = normalized(enlarge=True)
    other = rewrite(graph, [BIAS, name])
    assert other is not None
    assert "Resize" not in kinds(other)
    assert biases(other) == 0
    x = picture(2, 3, 5, 4)
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=5e-5)


def test_a_native_convolution_is_given_one_of_zeros() -> None:
    graph = normalized(inputs=16, outputs=17)
    other = rewrite(graph, [BIAS, "convolution-to-native"])
    assert other is not None
    assert kinds(other)[0] == "Convolution3x3"
    x = picture(1, 16, 5, 4)
    np.testing.assert_allclose(run(other, x), run(graph, x), atol=5e-5)


def test_a_normalisation_in_half_has_no_casts_around_it() -> None:
    graph = normalized()
    other = rewrite(graph, [IN_HALVES])
    assert other is not None
    island, half = convert(graph, "fp16"), convert(other, "fp16")
    assert kinds(island) == ["Cast", "Conv", "Cast", "InstanceNormalization", "Relu"]
    assert kinds(half) == ["Cast", "Conv", "InstanceNormalization", "Relu", "Cast"]
    types = {value.dtype for value in half.graph.initializers.values()}
    types |= {value.dtype for node in list(half.graph)[:-1] for value in node.outputs}
    assert types == {ir.DataType.FLOAT16}
    x = picture(2, 3, 7, 9)
    exact = run(graph, x)
    np.testing.assert_allclose(run(half, x), exact, atol=2e-3 * np.abs(exact).max())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_precisions_are_as_without_the_mark(precision: str) -> None:
    graph = normalized()
    other = rewrite(graph, [IN_HALVES])
    assert other is not None
    marked = convert(other, precision)
    for node in marked.graph:
        node.metadata_props.pop(IN_HALF, None)
    plain = convert(graph, precision)
    assert ir.to_proto(marked).SerializeToString() == ir.to_proto(plain).SerializeToString()


def test_other_sums_stay_islands() -> None:
    graph = normalized(between=["GlobalAveragePool"])
    assert rewrite(normalized(norm="Tanh"), [IN_HALVES]) is None
    other = rewrite(graph, [IN_HALVES])
    assert other is not None
    half = {node.op_type: node.outputs[0].dtype for node in convert(other, "fp16").graph}
    assert half["GlobalAveragePool"] == ir.DataType.FLOAT
    assert half["InstanceNormalization"] == half["Relu"] == ir.DataType.FLOAT16


@pytest.fixture(scope="module")
def short(traced_once: None) -> Network:
    return prepare(make_short_network())


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The files that are timed; it is pretended that each rewrite gains."""
    files: list[bytes] = []

    def speedup(plain: bytes, other: bytes, backend: str, inputs: object) -> float:
        files.append(other)
        return 1.5

    monkeypatch.setattr(rewritten, "speedup", speedup)
    return files


def pretend_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ONNX Runtime alone be here, and say that it computes on a GPU."""
    here = BackendStatus(onnxruntime.NAME, "1.31", ("cuda",))
    monkeypatch.setattr(verify, "BACKENDS", {onnxruntime.NAME: BACKENDS[onnxruntime.NAME]})
    monkeypatch.setattr(rewritten, "status", lambda name: here)
    monkeypatch.setattr(onnxruntime, "executed", lambda precision, device, **_: precision)


def test_in_fp16_on_a_gpu_all_that_is_for_it_is_tried(
    short: Network, timed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    plain, other = make_variants(short, "fp16", silent)
    assert (plain.variant.form, other.variant.form) == ("plain", "rewritten")
    assert other.variant.rewrites[0] == BIAS
    assert other.variant.rewrites[-3:] == (EIGHTS, IN_HALVES, "channels-last")
    assert other.variant.fastest_on == (f"{onnxruntime.NAME} cuda",)
    # Engines are built from the plain form: there sums in fp16 would overflow.
    assert IN_HALF.encode() not in plain.data
    assert IN_HALF.encode() in other.data
    assert [from_bytes(each.data).channels_last for each in (plain, other)] == [False, True]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_on_a_gpu_native_normalisation_is_tried_where_the_operators_are(
    short: Network, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And channels last after it; beside that file stands the one without operators, with what it has."""
    pretend_gpu(monkeypatch)
    monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    name = b"InstanceNormRelu"
    monkeypatch.setattr(
        rewritten, "speedup", lambda plain, other, *_: 1.5 + (name in other and name not in plain)
    )
    plain, native, portable = make_variants(short, precision, silent)
    assert native.variant.rewrites[-2:] == ("normalization-to-native", "channels-last")
    assert portable.variant.rewrites == tuple(each for each in native.variant.rewrites if each not in NATIVE)
    places = [each.variant.fastest_on for each in (plain, native, portable)]
    assert places == [(), (f"{onnxruntime.NAME} cuda",), (f"{onnxruntime.NAME} cuda",)]
    assert [each.variant.is_native for each in (plain, native, portable)] == [False, True, False]
    assert [from_bytes(each.data).channels_last for each in (plain, native, portable)] == [False, True, True]
    assert native.variant.failed_on(onnxruntime.NAME, "cpu") is None


def test_a_native_form_stands_alone_where_the_same_cannot_be_had_without(
    short: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    monkeypatch.setenv(OPERATORS, str(onnxruntime_library()))
    name, honest = b"InstanceNormRelu", rewritten.rewrite
    monkeypatch.setattr(
        rewritten, "speedup", lambda plain, other, *_: 1.5 + (name in other and name not in plain)
    )

    def rewrite(graph: ir.Model, names: Sequence[str]) -> ir.Model | None:
        without = "channels-last" in names and not NATIVE & set(names)
        return None if without else honest(graph, names)

    monkeypatch.setattr(rewritten, "rewrite", rewrite)
    plain, native = make_variants(short, "fp32", silent)
    assert native.variant.is_native
    assert [each.variant.fastest_on for each in (plain, native)] == [(), (f"{onnxruntime.NAME} cuda",)]


def test_in_fp32_on_a_gpu_what_is_for_fp16_is_not(
    short: Network, timed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_gpu(monkeypatch)
    _, other = make_variants(short, "fp32", silent)
    assert other.variant.rewrites[0] == BIAS
    assert not {EIGHTS, IN_HALVES} & set(other.variant.rewrites)
    assert not any(IN_HALF.encode() in data for data in timed)


def test_on_a_cpu_nothing_for_gpus_is_tried(short: Network, timed: list[bytes]) -> None:
    on_cpu = [name for name in verify.working_backends("fp32") if status(name).devices[0] == "cpu"]
    if on_cpu != list(verify.working_backends("fp32")):
        pytest.skip("a backend here computes on a GPU")
    *_, other = make_variants(short, "fp32", silent)
    assert timed
    assert other.variant.rewrites
    assert all(ONLY_ON.get(name, "cpu") == "cpu" for name in other.variant.rewrites)


def test_where_fp16_is_cast_to_float32_nothing_is_tried(
    short: Network, timed: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "executed", lambda precision, device, **_: "fp32")
    (plain,) = make_variants(short, "fp16", silent)
    assert plain.variant.form == "plain"
    assert timed == []

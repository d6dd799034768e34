# SPDX-License-Identifier: Apache-2.0
"""The parity gate refuses every fault that is planted, and says where it is."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from fake_half import FakeHalfRunner
from gantk.bundle import Parity
from gantk.checkpoint import Generator
from gantk.errors import GantkError
from gantk.export import variants, verify
from gantk.export.network import Network
from gantk.export.onnx import trace
from gantk.export.pipeline import specs
from gantk.export.reference import BATCHES, Feeds, Outputs, Reference, make_feeds
from gantk.export.serialize import serialize
from gantk.export.torch_reference import run_torch
from gantk.export.variants import make_variants
from gantk.runtime.model import Model
from gantk.runtime.registry import BACKENDS, BackendStatus
from gantk.runtime.runner import Runner


@pytest.fixture(scope="module")
def network(generator: nn.Module) -> Network:
    inputs, outputs = specs(generator.config, pictures=False)
    full = run_torch(generator, inputs, outputs, make_feeds(inputs), "fp32")
    origin = Generator(generator, "dcgan", "tiny", generator.config.to_json(), 1)
    return Network(origin, generator, inputs, outputs, trace(generator, inputs, outputs), full, None)


def silent(line: str) -> None:
    """A report that nobody reads."""


def plant(monkeypatch: pytest.MonkeyPatch, fault: Callable[[onnx.ModelProto], None]) -> None:
    """Let every file that is serialised carry a fault."""
    honest = serialize

    def faulty(*args: object, **kwargs: object) -> bytes:
        model = onnx.load_from_string(honest(*args, **kwargs))  # type: ignore[arg-type]
        fault(model)
        return model.SerializeToString()

    monkeypatch.setattr("gantk.export.original.serialize", faulty)


def weight_of(model: onnx.ModelProto, layer: str) -> onnx.TensorProto:
    node = next(node for node in model.graph.node if node.name == layer)
    return next(tensor for tensor in model.graph.initializer if tensor.name == node.input[1])


def change(model: onnx.ModelProto, layer: str, edit: Callable[[np.ndarray], np.ndarray]) -> None:
    tensor = weight_of(model, layer)
    tensor.CopyFrom(
        numpy_helper.from_array(np.ascontiguousarray(edit(numpy_helper.to_array(tensor))), tensor.name)
    )


def one_wrong_weight(model: onnx.ModelProto) -> None:
    def edit(weight: np.ndarray) -> np.ndarray:
        weight = weight.copy()
        weight[1, 1, 2, 2] += 0.5
        return weight

    change(model, "enlarge.1/ConvTranspose", edit)


def swapped_axes(model: onnx.ModelProto) -> None:
    change(model, "enlarge.3/ConvTranspose", lambda weight: weight.transpose(0, 1, 3, 2))


def nan_weight(model: onnx.ModelProto) -> None:
    change(model, "enlarge.1/ConvTranspose", lambda weight: np.where(weight == weight.max(), np.nan, weight))


def dead_weights(model: onnx.ModelProto) -> None:
    change(model, "enlarge.3/ConvTranspose", np.zeros_like)


@pytest.mark.parametrize(
    ("fault", "layer", "reason"),
    [
        (one_wrong_weight, "enlarge.1/ConvTranspose", "dB PSNR"),
        (swapped_axes, "enlarge.3/ConvTranspose", "dB PSNR"),
        (nan_weight, "enlarge.1/ConvTranspose", "values are NaN"),
        (dead_weights, "enlarge.3/ConvTranspose", "one constant"),
    ],
)
def test_a_fault_in_the_file_is_refused_and_located(
    network: Network,
    monkeypatch: pytest.MonkeyPatch,
    fault: Callable[[onnx.ModelProto], None],
    layer: str,
    reason: str,
) -> None:
    plant(monkeypatch, fault)
    with pytest.raises(GantkError) as caught:
        make_variants(network, "fp32", silent, rewrites=False)
    assert reason in caught.value.what
    assert f"layer `{layer}` is the first to part" in caught.value.what


def test_a_healthy_network_passes_on_every_backend(network: Network) -> None:
    (file,) = make_variants(network, "fp32", silent, rewrites=False)
    assert {parity.backend for parity in file.variant.parity} == set(verify.working_backends("fp32"))
    for parity in file.variant.parity:
        assert parity.passed
        assert parity.samples == sum(BATCHES)
        assert parity.max_abs is not None
        assert parity.max_abs < 1e-4


def test_half_precision_is_also_held_against_pytorchs_own(network: Network) -> None:
    (file,) = make_variants(network, "fp16", silent, rewrites=False)
    pairs = {(parity.backend, parity.reference) for parity in file.variant.parity}
    assert ("torch", "torch float32") in pairs
    assert {("onnxruntime", "torch float32"), ("onnxruntime", "torch float16")} <= pairs


def test_an_overflowing_layer_is_refused_in_fp16_alone(network: Network) -> None:
    """Scale one layer up and the next one down: the same function, with a tensor that fp16 cannot hold."""
    graph = ir.from_proto(ir.to_proto(network.traced.graph))
    for name, factor in (
        ("enlarge.0.weight", 1e6),
        ("enlarge.0.weight_bias", 1e6),
        ("enlarge.3.weight", 1e-6),
    ):
        value = graph.graph.initializers[name]
        assert value.const_value is not None
        scaled = value.const_value.numpy() * np.float32(factor)
        value.const_value = ir.Tensor(scaled, name=name)
    loud = replace(network, traced=replace(network.traced, graph=graph))
    make_variants(loud, "fp32", silent, rewrites=False)
    with pytest.raises(
        GantkError, match=r"layer `enlarge\.1/ConvTranspose` reaches .* in float32; fp16 is safe"
    ):
        make_variants(loud, "fp16", silent, rewrites=False)


def test_a_backend_that_fails_is_recorded_and_the_default_one_decides(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = verify.measure

    def wrong_on(name: str) -> None:
        def measure(data: bytes, precision: str, backend: str, *rest: object) -> list[Parity]:
            verdicts = honest(data, precision, backend, *rest)  # type: ignore[arg-type]
            if backend != name:
                return verdicts
            return [replace(v, passed=False, reason="12.0 dB PSNR") for v in verdicts]

        monkeypatch.setattr(verify, "measure", measure)

    default, *others = verify.working_backends("fp32")
    for other in others:
        wrong_on(other)
        (file,) = make_variants(network, "fp32", silent, rewrites=False)
        assert file.variant.failed_on(other, "cpu") is not None
        assert file.variant.failed_on(default, "cpu") is None
    wrong_on(default)
    with pytest.raises(GantkError, match="12.0 dB PSNR"):
        make_variants(network, "fp32", silent, rewrites=False)


def test_a_network_that_overflows_in_pytorch_too_is_refused_by_layer(generator: nn.Module) -> None:
    loud = copy.deepcopy(generator)
    for name, factor in (("enlarge.0.weight", 1e6), ("enlarge.3.weight", 1e-6)):
        loud.get_parameter(name).mul_(factor)
    for norm in (module for module in loud.enlarge if isinstance(module, nn.BatchNorm2d)):
        norm.running_var.fill_(1.0)
    inputs, outputs = specs(loud.config, pictures=False)
    feeds = make_feeds(inputs)
    with pytest.raises(GantkError, match="torch float16 itself yields"):
        run_torch(loud, inputs, outputs, feeds, "fp16")
    origin = Generator(loud, "dcgan", "loud", loud.config.to_json(), 1)
    full = run_torch(loud, inputs, outputs, feeds, "fp32")
    network = Network(origin, loud, inputs, outputs, trace(loud, inputs, outputs), full, None)
    with pytest.raises(GantkError, match=r"layer `enlarge\.1/ConvTranspose` reaches"):
        make_variants(network, "fp16", silent, rewrites=False)


def test_a_backend_that_cannot_load_a_file_is_recorded(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    default, *others = verify.working_backends("fp32")
    honest = verify.open_model

    def broken(model: Model, backend: str) -> Runner:
        if backend in others:
            raise GantkError("the vendor says:\n\x1b[31mno")
        return honest(model, backend)

    monkeypatch.setattr(verify, "open_model", broken)
    (file,) = make_variants(network, "fp32", silent, rewrites=False)
    assert file.variant.failed_on(default, "cpu") is None
    for other in others:
        failed = file.variant.failed_on(other, "cpu")
        assert failed is not None
        assert failed.reason == "the vendor says:  [31mno"


def fake_backends(monkeypatch: pytest.MonkeyPatch, network: Network, first: str, second: str) -> None:
    how = {"onnxruntime": first, "openvino": second}

    def compute(feed: Feeds) -> Outputs:
        return run_torch(network.module, network.inputs, network.outputs, [feed], "bf16").outputs[0]

    monkeypatch.setattr(verify, "working_backends", lambda precision: tuple(how))
    monkeypatch.setattr(verify, "open_model", lambda model, name: FakeHalfRunner(compute, name, how[name]))
    monkeypatch.setattr("gantk.export.network.locate", lambda *_: None)


@pytest.mark.parametrize("first", ["right", "unloadable"])
@pytest.mark.parametrize("second", ["right", "unloadable"])
def test_a_backend_that_has_bf16_by_halves_is_passed_by(
    network: Network, monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    fake_backends(monkeypatch, network, first, second)
    lines: list[str] = []
    (file,) = make_variants(network, "bf16", lines.append, rewrites=first == second == "unloadable")
    assert lines == ["bf16: verifying"]  # Nor is a rewrite tried where nothing loads the plain file.
    assert file.variant.failed_on("torch", "cpu") is None
    for backend, how in (("onnxruntime", first), ("openvino", second)):
        failed = file.variant.failed_on(backend, "cpu")
        assert (failed is not None) == (how == "unloadable")
        assert failed is None or failed.reason == "it cannot load `x`: no kernel of ConvTranspose in bf16"


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("wrong", "right", "on onnxruntime .*dB PSNR"),
        ("failing", "right", "on onnxruntime .*cannot run"),
        ("unloadable", "wrong", "on openvino .*dB PSNR"),
    ],
)
def test_the_first_backend_that_loads_a_bf16_file_decides(
    network: Network, monkeypatch: pytest.MonkeyPatch, first: str, second: str, reason: str
) -> None:
    fake_backends(monkeypatch, network, first, second)
    with pytest.raises(GantkError, match=f"the bf16 file does not compute {reason}"):
        make_variants(network, "bf16", silent, rewrites=False)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_default_backend_that_cannot_load_another_precision_is_final(
    network: Network, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    monkeypatch.setattr(variants, "_audit_range", lambda network: None)
    fake_backends(monkeypatch, network, "unloadable", "right")
    with pytest.raises(GantkError, match=f"the {precision} file .* on onnxruntime .*: it cannot load `x`"):
        make_variants(network, precision, silent, rewrites=False)


class Constant(nn.Module):
    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return torch.zeros(len(latent), 1, 4, 4) + 0 * latent[:, :1, None, None]


class Overflowing(nn.Module):
    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return (latent[:, :1, None, None] * 1e30) ** 2


@pytest.mark.parametrize(
    ("module", "reason"), [(Constant(), "the constant 0"), (Overflowing(), "NaN or infinite")]
)
def test_a_network_that_is_dead_in_pytorch_is_refused(
    generator: nn.Module, module: nn.Module, reason: str
) -> None:
    inputs, outputs = specs(generator.config, pictures=False)
    with pytest.raises(GantkError, match=reason):
        run_torch(module, inputs, outputs, make_feeds(inputs), "fp32")


def test_feeds_are_fresh_for_each_seed_and_the_same_for_one(generator: nn.Module) -> None:
    inputs, _ = specs(generator.config, pictures=False)
    first, again, other = (make_feeds(inputs, seed=seed) for seed in (0, 0, 1))
    assert [len(feed["latent"]) for feed in first] == list(BATCHES)
    assert all(np.array_equal(a["latent"], b["latent"]) for a, b in zip(first, again, strict=True))
    assert not any(np.array_equal(a["latent"], b["latent"]) for a, b in zip(first, other, strict=True))


def test_the_psnr_that_was_asked_for_holds_for_whole_levels_too() -> None:
    """By default they are held to less, for rounding may go either way."""
    right = np.random.default_rng(0).integers(1, 255, (2, 50, 50, 3)).astype(np.uint8)
    off = right.copy()
    off[:, ::5, 0, 0] += 1
    made, wanted = (
        Reference(name, ({"x": right},), ({"y": array},), {"y": 255.0})
        for name, array in (("made", off), ("right", right))
    )
    verdicts = {
        psnr_min: verify.compare_references(made, wanted, "fp32", psnr_min)
        for psnr_min in (None, 60.0, 120.0)
    }
    assert [verdict.passed for verdict in verdicts.values()] == [True, True, False]
    assert "at least 120 dB wanted" in (verdicts[120.0].reason or "")


def test_of_several_outputs_the_worst_speaks_in_any_order() -> None:
    right = np.linspace(-1, 1, 30, dtype=np.float32).reshape(1, 30)
    wanted = Reference("right", ({"x": right},), ({"a": right, "b": right},), {"a": 2.0, "b": 2.0})
    for off, passed in ((1e-5, True), (0.5, False)):
        for name in ("a", "b"):
            outputs = {**wanted.outputs[0], name: right + np.float32(off)}
            verdict = verify.compare_references(replace(wanted, outputs=(outputs,)), wanted, "fp32", None)
            assert (verdict.passed, verdict.max_abs) == (passed, pytest.approx(off, rel=0.02))


def test_backends_that_do_not_work_here_verify_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = [BackendStatus(name, None, (), "it is not installed") for name in BACKENDS]
    for works in BACKENDS:
        here = {each.name: each for each in missing} | {works: BackendStatus(works, "1", ("cpu",))}
        monkeypatch.setattr(verify, "status", here.__getitem__)
        monkeypatch.setattr(verify, "executed", lambda name, precision, device, **_: precision)
        assert verify.working_backends("fp32") == verify.measurable_backends("fp32") == (works,)

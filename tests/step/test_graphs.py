# SPDX-License-Identifier: Apache-2.0
"""The graphs of a step against PyTorch's autograd in float64 and its Adam."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from gantk.export.functions import DOMAIN
from gantk.export.gatys import graphs
from gantk.export.gatys.chain import Chain, StepConfig
from gantk.export.gatys.draft import Draft, StepGraph
from gantk.export.serialize import serialize
from gantk.models.vgg import Vgg19, load_vgg19
from gantk.runtime.model import from_bytes
from gantk.runtime.registry import open_model, status
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec
from step_networks import CONTENT, LAYERS

BACKENDS = [name for name in ("onnxruntime", "openvino") if status(name).works]
SIZES = [(1, 16, 20), (2, 15, 22), (1, 4, 4), (1, 23, 5)]
WEIGHTS = {"content_weight": 3e-4, "style_weight": 2.0, "variation_weight": 1e-3}


def opened(made: StepGraph, backend: str) -> Runner:
    data = serialize(made.graph, made.inputs, made.outputs, {})
    return open_model(from_bytes(data), backend, threads=1)


def make_feeds(
    network: Vgg19, config: StepConfig, sizes: tuple[int, int, int], seed: int = 0
) -> dict[str, Array]:
    count, height, width = sizes
    rng = torch.Generator().manual_seed(seed)
    pictures = [torch.rand(n, 3, height, width, generator=rng) for n in (count, count, 1)]
    with torch.no_grad():
        content, style = network(pictures[1]), network(pictures[2])
    feeds = {"picture": pictures[0], config.targets[0]: content[config.content_layer]}
    feeds |= {f"gram.{layer}": gram(style[layer]) for layer in config.style_layers}
    feeds |= {name: torch.tensor(value) for name, value in WEIGHTS.items()}
    feeds["layer_weights"] = torch.arange(1.0, 1.0 + len(config.style_layers))
    return {name: tensor.numpy() for name, tensor in feeds.items()}


def gram(features: Tensor) -> Tensor:
    rows = features.flatten(2)
    return rows @ rows.mT / rows.shape[2]


def differentiate(network: Vgg19, config: StepConfig, feeds: dict[str, Array]) -> dict[str, Tensor]:
    """Losses and gradient in float64 from the plain expressions, with none of gantk's operators."""
    network = network.double()
    wanted = {name: torch.from_numpy(array).double() for name, array in feeds.items()}
    picture = wanted["picture"].requires_grad_()
    features = network(picture)
    content = 0.5 * (features[config.content_layer] - wanted[config.targets[0]]).square().sum((1, 2, 3))
    style = sum(
        weight * (gram(features[layer]) - wanted[f"gram.{layer}"]).square().mean((1, 2))
        for layer, weight in zip(config.style_layers, wanted["layer_weights"], strict=True)
    )
    dx, dy = picture.diff(dim=3), picture.diff(dim=2)
    if config.variation == "isotropic":
        terms = F.pad(dx, (0, 1)).square() + F.pad(dy, (0, 0, 0, 1)).square() + config.epsilon
        variation = terms.sqrt().sum((1, 2, 3))
    else:
        power = 1 if config.variation == "l1" else 2
        variation = dx.abs().pow(power).sum((1, 2, 3)) + dy.abs().pow(power).sum((1, 2, 3))
    assert isinstance(style, Tensor)
    total = (
        wanted["content_weight"] * content
        + wanted["style_weight"] * style
        + wanted["variation_weight"] * variation
    )
    (gradient,) = torch.autograd.grad(total.sum(), picture)
    losses = {"content_loss": content, "style_loss": style, "variation_loss": variation}
    return {"gradient": gradient, **{name: loss.detach() for name, loss in losses.items()}}


def assert_close(found: dict[str, Array], wanted: dict[str, Tensor], tolerance: float) -> None:
    for name, tensor in wanted.items():
        scale = float(tensor.abs().max())
        np.testing.assert_allclose(
            found[name] / scale, tensor.numpy() / scale, rtol=0, atol=tolerance, err_msg=name
        )


@pytest.mark.parametrize("pooling", ["max", "average"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_gradient_is_that_of_autograd(vgg_file: Any, backend: str, pooling: str) -> None:
    network, config = load_vgg19(vgg_file, LAYERS[-1], pooling), StepConfig(LAYERS, CONTENT, pooling)
    with opened(graphs.make_gradient(Chain.of(network), config), backend) as runner:
        for sizes in SIZES:
            feeds = make_feeds(network.float(), config, sizes)
            assert_close(runner.run(feeds), differentiate(network, config, feeds), 1e-5)


@pytest.mark.parametrize("variation", ["l2", "isotropic"])
def test_other_variations(network: Vgg19, variation: str) -> None:
    config = StepConfig(("relu1_1",), "relu1_2", "max", variation, 1e-2)
    chain = Chain.of(load_like(network, "relu1_2"))
    with opened(graphs.make_gradient(chain, config), BACKENDS[0]) as runner:
        feeds = make_feeds(network, config, (2, 9, 7)) | {"variation_weight": np.array(2.0, np.float32)}
        assert_close(runner.run(feeds), differentiate(network, config, feeds), 1e-5)


@pytest.mark.parametrize(
    ("style", "content"),
    [(("relu2_1",), "relu1_1"), (("relu1_2", "relu2_2"), "relu2_2"), (("relu1_1",), "relu1_1")],
)
def test_taps_before_poolings_and_at_the_end(network: Vgg19, style: tuple[str, ...], content: str) -> None:
    config = StepConfig(style, content)
    chain = Chain.of(load_like(network, config.last))
    with opened(graphs.make_gradient(chain, config), BACKENDS[0]) as runner:
        feeds = make_feeds(network, config, (1, 11, 14))
        assert_close(runner.run(feeds), differentiate(network, config, feeds), 1e-5)


def load_like(network: Vgg19, last: str) -> Vgg19:
    """The beginning of a network."""
    shorter = Vgg19(last, network.pooling)
    shorter.load_state_dict({name: network.state_dict()[name] for name in shorter.state_dict()})
    return shorter.eval().requires_grad_(False)


@pytest.mark.parametrize("backend", BACKENDS)
def test_targets(network: Vgg19, config: StepConfig, backend: str) -> None:
    with opened(graphs.make_targets(Chain.of(network), config), backend) as runner:
        picture = torch.rand(2, 3, 18, 13)
        features = network.double()(picture.double())
        wanted = {f"gram.{layer}": gram(features[layer]) for layer in LAYERS}
        wanted[f"content.{CONTENT}"] = features[CONTENT]
        assert_close(runner.run({"picture": picture.numpy()}), wanted, 3e-6)


def test_repeated_adam_steps_are_those_of_torch(network: Vgg19, config: StepConfig) -> None:
    feeds = make_feeds(network, config, (1, 14, 18))
    rate, betas, epsilon = 0.02, (0.8, 0.99), 1e-3
    state = {
        "picture": feeds["picture"],
        "mean": np.zeros_like(feeds["picture"]),
        "square": np.zeros_like(feeds["picture"]),
        "corrections": np.zeros(2, np.float32),
    }
    settings = {"learning_rate": rate, "betas": betas, "epsilon": epsilon}
    feeds |= {name: np.array(value, np.float32) for name, value in settings.items()}
    picture = torch.from_numpy(feeds["picture"].copy()).double()
    optimizer = torch.optim.Adam([picture], rate, betas, epsilon)
    with opened(graphs.make_adam(Chain.of(network), config), BACKENDS[0]) as runner:
        for _ in range(6):
            made = runner.run({**feeds, **state})
            reference = differentiate(network, config, {**feeds, "picture": picture.numpy()})
            picture.grad = reference["gradient"]
            optimizer.step()
            picture.clamp_(0, 1)
            state = {name: made[f"next_{name}"] for name in state}
            np.testing.assert_allclose(state["picture"], picture.numpy(), rtol=0, atol=2e-5)
            assert_close(made, {name: reference[name] for name in reference if name.endswith("loss")}, 1e-4)
    np.testing.assert_allclose(state["corrections"], [1 - 0.8**6, 1 - 0.99**6], rtol=1e-6)


def unpooling(pooling: str) -> bytes:
    """x, what its pooling yields, and a slope of that to the slope of x."""
    draft = Draft()
    if pooling == "max":
        pooled = draft.call("MaxPool2x2", "forward", ["x"], ["forward"])[0]
        made = draft.call("MaxPool2x2Grad", "backward", ["slope", "x", pooled], ["backward"])[0]
    else:
        made = graphs._enlarge(draft, "backward", "x", "slope")
    draft.add("Identity", "end", made, to="y")
    big, small = ("N", "C", "H", "W"), ("N", "C", "h", "w")
    specs = [TensorSpec("x", "float32", big), TensorSpec("slope", "float32", small)]
    finished = draft.finish("unpooling", specs, [TensorSpec("y", "float32", big)], "l1")
    return ir.to_proto(finished.graph).SerializeToString()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("pooling", ["max", "average"])
def test_poolings_with_ties_and_odd_sizes(pooling: str, backend: str) -> None:
    with open_model(from_bytes(unpooling(pooling)), backend, threads=1) as runner:
        for height, width in [(2, 2), (3, 2), (5, 7), (8, 9), (3, 2047), (4099, 2)]:
            rng = torch.Generator().manual_seed(height)
            # Few different values, so that most windows have their maximum several times.
            x = torch.randint(0, 3, (2, 3, height, width), generator=rng).float().requires_grad_()
            y = F.max_pool2d(x, 2) if pooling == "max" else F.avg_pool2d(x, 2) * 4
            slope = torch.randn(y.shape, generator=rng)
            (wanted,) = torch.autograd.grad(y, x, slope)
            made = runner.run({"x": x.detach().numpy(), "slope": slope.numpy()})["y"]
            np.testing.assert_array_equal(made, wanted.numpy())


def calls(made: StepGraph) -> Counter[str]:
    proto = ir.to_proto(made.graph)
    onnx.checker.check_model(proto, full_check=True)
    assert {body.name for body in proto.functions} == {
        n.op_type for n in proto.graph.node if n.domain == DOMAIN
    }
    return Counter(node.op_type for node in proto.graph.node if node.domain == DOMAIN)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_functions_are_in_the_graphs_forward_and_backward(
    network: Vgg19, config: StepConfig, precision: str
) -> None:
    chain = Chain.of(network)
    both = {"GramMatrix": 3, "GramMatrixGrad": 3, "TotalVariation": 1, "MaxPool2x2": 2, "MaxPool2x2Grad": 2}
    forward = {"GramMatrix": 3, "MaxPool2x2": 2}
    if precision == "fp32":  # But for the one that sees the three channels of a picture.
        both |= {"Convolution3x3Relu": 4, "Convolution3x3ReluGrad": 5}
        forward |= {"Convolution3x3Relu": 4}
    assert calls(graphs.make_gradient(chain, config, precision)) == both
    assert calls(graphs.make_adam(chain, config, precision)) == both
    assert calls(graphs.make_targets(chain, config, precision)) == forward
    made = graphs.make_gradient(chain, config, precision).graph.graph
    nodes = [node.name for node in made]
    assert len(set(nodes)) == len(nodes)
    assert {"forward/relu1_1/Conv", "backward/relu2_1/MaxPool2x2Grad", "style/relu1_1/GramMatrixGrad"} <= set(
        nodes
    )
    values = {value.name for node in made for value in node.outputs}
    assert {"forward/relu3_1/Relu", "backward/relu3_1/Conv"} <= values


@pytest.mark.skipif("openvino" not in BACKENDS, reason="wants openvino")
def test_bf16_points_the_same_way(vgg_file: Any) -> None:
    from gantk.runtime.backends.openvino import executed

    if executed("bf16", "cpu") is None:
        pytest.skip("this CPU has no bf16 instructions")
    network, config = load_vgg19(vgg_file, LAYERS[-1], "max"), StepConfig(LAYERS, CONTENT)
    with opened(graphs.make_gradient(Chain.of(network), config, "bf16"), "openvino") as runner:
        assert runner.precision == "bf16"
        feeds = make_feeds(network, config, (1, 24, 31))
        found = runner.run(feeds)
        wanted = differentiate(network, config, feeds)
    a, b = found["gradient"].ravel().astype(np.float64), wanted["gradient"].numpy().ravel()
    assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.99
    assert_close(found, {name: wanted[name] for name in wanted if name.endswith("loss")}, 0.03)


@pytest.mark.parametrize(
    "make",
    [
        # All that the other has, and Adam.
        graphs.make_adam,
        pytest.param(graphs.make_gradient, marks=pytest.mark.slow),
    ],
)
def test_it_builds_in_tensorrt_rtx(
    network: Vgg19, config: StepConfig, make: Callable[[Chain, StepConfig], StepGraph]
) -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    made = make(Chain.of(network), config)
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    layers = builder.create_network(0)
    parser = trt.OnnxParser(layers, trt.Logger(trt.Logger.ERROR))
    data = serialize(made.graph, made.inputs, made.outputs, {})
    assert parser.parse(data), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    settings, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for spec in made.inputs:
        if spec.is_dynamic:
            sizes = [{"H": n, "W": n, "h": n // 2, "w": n // 2} for n in (32, 256, 512)]
            profile.set_shape(spec.name, *(spec.concrete(size) for size in sizes))
    settings.add_optimization_profile(profile)
    assert builder.build_serialized_network(layers, settings) is not None

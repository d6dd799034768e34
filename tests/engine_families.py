# SPDX-License-Identifier: Apache-2.0
"""A small network of every family that gantk exports, as its own exporter writes it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx_ir as ir
from safetensors.torch import save_file

import engine_graphs
from gantk.bundle import Interface
from gantk.export.fold import fold_scales
from gantk.export.gatys.chain import Chain, StepConfig
from gantk.export.gatys.graphs import make_adam, make_gradient, make_targets
from gantk.export.int8 import QUANTISED, Quantiser
from gantk.export.onnx import trace
from gantk.export.pipeline import specs, takes_pictures
from gantk.export.precision import convert
from gantk.export.serialize import serialize
from gantk.models import build, configure
from gantk.models.borders import Bordered
from gantk.models.vgg import load_vgg19
from gantk.runtime.arrays import random_feeds
from gantk.runtime.following import Follows
from gantk.runtime.model import from_bytes
from step_networks import CONTENT, LAYERS, make_weights

CONFIGS: dict[str, dict[str, Any]] = {
    "dcgan": {"size": 32, "width": 8, "latent_size": 16},
    "mlp": {"size": 32},
    "style": {"styles": ["a"], "width": 8, "blocks": 1},
    "styles": {"styles": ["a", "b"], "width": 8, "blocks": 1},
    "adain": {},
}
STEP_FORMS = {"gradient": make_gradient, "adam": make_adam, "targets": make_targets}
FOLLOWS = {"h": Follows("H", 1), "w": Follows("W", 1)}
"""A step's content features lie behind one pooling."""
SIDES = ("H", "W", "HS", "WS")


@cache
def network(family: str) -> tuple[ir.Model, Interface]:
    """The float32 graph of a family's network; ``styles`` is a style network of several."""
    kind = "style" if family == "styles" else family
    config = configure(kind, CONFIGS[family])
    module: Any = build(kind, CONFIGS[family])
    pixels = takes_pictures(config)
    inputs, outputs = specs(config, pictures=pixels)
    traced = trace(Bordered(module, config.inputs, config.outputs, pixels=pixels).eval(), inputs, outputs)
    fold_scales(traced.graph)
    return traced.graph, Interface(inputs, outputs)


@cache
def exported(family: str, precision: str) -> tuple[bytes, Interface]:
    """The ONNX file of a family's network; of a step one of its forms, such as ``step-adam``.

    ``foreign`` is a file from elsewhere with a quantised convolution.
    """
    if family == "foreign":
        data = engine_graphs.quantised(precision)
        model = from_bytes(data)
        return data, Interface(model.inputs, model.outputs)
    if precision in QUANTISED:
        data, interface = exported(family, "fp32")
        feeds = [random_feeds(interface.inputs, dict.fromkeys(SIDES, 64) | {"N": 1})]
        with TemporaryDirectory() as folder:
            return Quantiser(data, feeds, "minmax", Path(folder), precision).quantise(), interface
    if family.startswith("step-"):
        with TemporaryDirectory() as folder:
            save_file(make_weights(), Path(folder) / "vgg.safetensors")
            vgg = load_vgg19(Path(folder) / "vgg.safetensors", LAYERS[-1], "max")
        form = STEP_FORMS[family.removeprefix("step-")]
        made = form(Chain.of(vgg), StepConfig(LAYERS, CONTENT), precision)
        return serialize(made.graph, made.inputs, made.outputs, {}), Interface(made.inputs, made.outputs)
    graph, interface = network(family)
    data = serialize(convert(graph, precision), interface.inputs, interface.outputs, {})
    return data, interface

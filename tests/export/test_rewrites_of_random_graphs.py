# SPDX-License-Identifier: Apache-2.0
"""Whatever a graph looks like, a rewrite leaves it alone, or what it computes; in fp16 it is nearly the same."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from gantk.export.fold import fold_scales
from gantk.export.precision import convert, expose_intermediates
from gantk.export.rewrites import REWRITES, rewrite
from gantk.runtime.model import from_bytes
from gantk.runtime.operators import OPERATORS
from gantk.runtime.registry import open_model
from random_graphs import Sketch

ONE_BY_ONE = [(name,) for name in REWRITES]
TOGETHER = [
    ("normalized-bias", "enlarged-to-transposed", "narrow-to-phases"),
    ("enlarged-to-native", "convolution-to-native", "narrow-to-phases"),
    ("narrow-to-blocks", "normalization-to-native"),
    ("enlarged-to-subpixel", "narrow-to-phases", "narrow-to-blocks", "narrow-to-eights"),
]


def run(graph: ir.Model, x: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs, and behind them what is inside, by name."""
    proto = ir.to_proto(graph)
    onnx.checker.check_model(proto, full_check=True)
    shown = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    expose_intermediates(shown)
    with open_model(from_bytes(ir.to_proto(shown).SerializeToString()), "onnxruntime", threads=1) as runner:
        return runner.run({"x": x})


def check(seed: int) -> int:
    """Each rewrite, some after each other, and what is in fp16: how many found something to do."""
    sketch = Sketch(seed)
    graph = sketch.graph()
    wanted, outputs = run(graph, sketch.x), [value.name for value in graph.graph.outputs]
    folded = ir.from_proto(ir.to_proto(graph))
    others = {names: rewrite(graph, names) for names in (*ONE_BY_ONE, *TOGETHER)}
    others["fold",] = folded if fold_scales(folded) else None
    others["fp16",] = convert(graph, "fp16")
    made = {names: other for names, other in others.items() if other is not None}
    for names, other in made.items():
        what = f"{' + '.join(names)} of {seed}"
        found = run(other, sketch.x)
        assert all(weight.uses() for weight in other.graph.initializers.values()), what
        assert [*found][: len(outputs)] == outputs, what
        for name in wanted.keys() & found.keys():  # What has kept its name is what it was.
            array = wanted[name]
            size = np.abs(array).max() + 0.01
            near = 1e-3 if "fp16" not in names else 0.1  # Of what a Clip has left, at worst.
            np.testing.assert_allclose(found[name] / size, array / size, atol=near, err_msg=what)
    return len(made)


@pytest.mark.parametrize("first", range(0, 50, 10))
def test_rewrites_change_nothing_that_is_computed(first: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPERATORS, "")
    assert sum(map(check, range(first, first + 10))) > 30


@pytest.mark.slow
def test_nor_do_they_of_very_many_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(OPERATORS, "")
    assert sum(map(check, range(1000, 3000))) > 6000

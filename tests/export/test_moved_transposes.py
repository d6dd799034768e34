# SPDX-License-Identifier: Apache-2.0
"""Between native convolutions nothing is transposed: what stands there is computed with channels last, and alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from export_graphs import close, kinds, picture, run
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.precision import IN_FLOAT
from gantk.export.rewrites import rewrite
from gantk.runtime.operators import OPERATORS
from norm_graphs import Draft
from wholly_native import turned

Step = Callable[[Draft, str], str]


@pytest.fixture(autouse=True)
def _bodies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is proven are the bodies."""
    monkeypatch.setenv(OPERATORS, "")


def between(step: Step, channels: int = 4) -> ir.Model:
    """A convolution, a step, and one more."""
    draft = Draft(3, 0)
    value = step(draft, draft.conv("x", 3, 4))
    draft.conv(value, channels, 3)
    return draft.graph()


def with_weight(kind: str, *shape: int) -> Step:
    return lambda draft, value: draft.add(kind, value, draft.normal(*shape))


def after(kind: str, *shape: int) -> Step:
    return lambda draft, value: draft.add(kind, draft.normal(*shape), value)


def resized(numbers: list[float], sizes: list[int] | None = None, **how: object) -> Step:
    def step(draft: Draft, value: str) -> str:
        given = [draft.weight(np.array(sizes))] if sizes else []
        scales = "" if sizes else draft.weight(np.array(numbers, np.float32))
        return draft.add("Resize", value, "", scales, *given, **how)

    return step


def batch_normalized(draft: Draft, value: str, channels: int = 4, **how: object) -> str:
    variance = draft.weight(np.linspace(0.5, 2, channels, dtype=np.float32))
    return draft.add(
        "BatchNormalization", value, *(draft.normal(channels) for _ in range(3)), variance, **how
    )


def computed(draft: Draft, value: str) -> str:
    return draft.add("Neg", value)


STEPS: dict[str, tuple[Step, int]] = {
    "a value by channel": (with_weight("Mul", 4, 1, 1), 4),
    "one of four axes": (with_weight("Add", 1, 4, 1, 1), 4),
    "values by column": (with_weight("Mul", 5), 4),
    "values by row and column": (with_weight("Sub", 6, 5), 4),
    "values by all": (after("Mul", 1, 4, 6, 5), 4),
    "a number before": (after("Sub"), 4),
    "slopes": (with_weight("PRelu", 4, 1, 1), 4),
    "one by channel, computed": (
        lambda d, v: d.add(
            "Mul", v, d.add("Unsqueeze", computed(d, d.normal(1, 4)), d.weight(np.array([2, 3])))
        ),
        4,
    ),
    "side by side": (lambda d, v: d.add("Concat", v, d.add("Tanh", v), axis=1), 8),
    "counted from the last": (lambda d, v: d.add("Concat", v, v, v, axis=-3), 12),
    "above each other": (lambda d, v: d.add("Concat", v, v, axis=2), 4),
    "with a constant": (lambda d, v: d.add("Concat", v, d.normal(2, 1, 6, 5), axis=1), 5),
    "batch normalisation": (batch_normalized, 4),
    "its smoothing": (lambda d, v: batch_normalized(d, v, epsilon=0.3), 4),
    "nearest": (resized([1, 1, 3, 2], mode="nearest"), 4),
    "linear": (resized([1, 1, 2, 1.5], mode="linear"), 4),
    "to a size": (resized([], [2, 4, 9, 11], mode="nearest"), 4),
    "blocks by depth": (lambda d, v: d.add("DepthToSpace", v, blocksize=2, mode="DCR"), 1),
    "blocks by channel": (lambda d, v: d.add("DepthToSpace", v, blocksize=2, mode="CRD"), 1),
    "an activation": (lambda d, v: d.add("Elu", v, alpha=0.7), 4),
}


@pytest.mark.parametrize("name", STEPS)
def test_what_stands_between_convolutions_has_channels_last(name: str) -> None:
    step, channels = STEPS[name]
    graph = between(step, channels)
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    inner = {"blocks by depth": 1, "blocks by channel": 1}
    assert kinds(other).count("Transpose") == 2 + inner.get(name, 0)
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 2e-6)
    onnx.shape_inference.infer_shapes(ir.to_proto(other), check_type=True, strict_mode=True)


def test_pictures_of_another_origin_are_transposed_to_join() -> None:
    draft = Draft(3, 0)
    value = draft.conv("x", 3, 3, pads=[1] * 4)
    draft.conv(draft.add("Concat", "x", value, axis=1), 6, 3)
    graph = draft.graph()
    other = turned(graph)
    assert kinds(other)[-1] == "Transpose"
    assert kinds(other).count("Transpose") == 2  # Of x, for both, and of what comes out.
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 2e-6)


STAYS: dict[str, Step] = {
    "values by column, computed": lambda d, v: d.add("Mul", v, computed(d, d.normal(5))),
    "cubic": resized([1, 1, 2, 2], mode="cubic"),
    "of some axes": resized([2, 2], mode="nearest", axes=[2, 3]),
    "sizes of some axes": resized([], [9, 11], mode="nearest", axes=[2, 3]),
}


@pytest.mark.parametrize("name", STAYS)
def test_what_is_not_known_to_be_the_same_stays(name: str) -> None:
    graph = between(STAYS[name])
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert kinds(other).count("Transpose") == 4
    x = picture(2, 3, 8, 7)
    close(run(other, x), run(graph, x), 2e-6)


def test_a_batch_normalisation_of_what_is_computed_stays() -> None:
    def step(draft: Draft, value: str) -> str:
        scale = computed(draft, draft.normal(4))
        rest = [draft.normal(4), draft.normal(4), draft.weight(np.ones(4, np.float32))]
        return draft.add("BatchNormalization", value, scale, *rest)

    assert rewrite(between(step), [WHOLLY_NATIVE]) is None  # It sums over pictures, for all that is known.


def test_what_has_no_kernel_in_bf16_is_in_float32() -> None:
    def step(draft: Draft, value: str) -> str:
        value = draft.add("Elu", value)
        value = resized([1, 1, 2, 2], mode="linear")(draft, value)
        return draft.add("Concat", value, value, axis=1)

    other = rewrite(between(step, 8), [WHOLLY_NATIVE])
    assert other is not None
    marked = {node.op_type: IN_FLOAT in node.metadata_props for node in other.graph if node.domain == ""}
    assert marked["Elu"] and marked["Resize"]

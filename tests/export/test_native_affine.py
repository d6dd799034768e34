# SPDX-License-Identifier: Apache-2.0
"""What is computed value by value between convolutions, as one pass of a native operator, proven equal."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto

from export_graphs import close, kinds, make_graph, picture, run
from gantk.bundle import WHOLLY_NATIVE
from gantk.export.precision import convert
from gantk.export.rewrites import rewrite
from norm_graphs import Draft

CHANNELS, SIDES = 4, (5, 6)
STEPS = [
    *(
        "factor",
        "factors",
        "own factors",
        "offset",
        "offsets",
        "own offsets",
        "noise",
        "own noise",
        "pictures",
    ),
    *("relu", "slope", "slopes", "gain", "gains", "negative gain", "sigmoid", "bounds", "most"),
]


class Chain(Draft):
    """Two convolutions, and what lies between."""

    def __init__(self, batch: int | str = 2) -> None:
        super().__init__(CHANNELS, 0)
        self.batch = batch
        self.start = self.conv("x", CHANNELS, CHANNELS, 3, pads=[1, 1, 1, 1])
        self.value = self.start

    def uniform(self, *shape: int) -> str:
        return self.weight(self._random.uniform(0.5, 1.5, shape).astype(np.float32))

    def style(self) -> str:
        """Of each picture, for each channel."""
        means = self.add("ReduceMean", self.start, self.weight(np.array([2, 3])), keepdims=1)
        return self.add("Sigmoid", self.conv(means, CHANNELS, CHANNELS, 1))

    def step(self, name: str) -> None:
        height, width = SIDES
        operands = {
            "factor": ("Mul", self.uniform),
            "factors": ("Mul", lambda: self.normal(CHANNELS, 1, 1)),
            "own factors": ("Mul", self.style),
            "offset": ("Add", lambda: self.normal(1)),
            "offsets": ("Add", lambda: self.normal(1, CHANNELS, 1, 1)),
            "own offsets": ("Add", self.style),
            "noise": ("Add", lambda: self.normal(1, 1, height, width)),
            "own noise": (
                "Add",
                lambda: self.add("ReduceMax", self.start, self.weight(np.array([1])), keepdims=1),
            ),
            "pictures": ("Add", lambda: self.add("Sigmoid", self.start)),
            "gain": ("Mul", lambda: self.weight(np.array(2**0.5, np.float32))),
            "gains": ("Mul", lambda: self.uniform(CHANNELS, 1, 1)),
            "negative gain": ("Mul", lambda: self.weight(np.array(-1, np.float32))),
        }
        if name in operands:
            kind, make = operands[name]
            operand = make()
            inputs = [self.value, operand] if len(self.nodes) % 2 else [operand, self.value]
            self.value = self.add(kind, *inputs)
        elif name == "slope":
            self.value = self.add("LeakyRelu", self.value, alpha=0.2)
        elif name == "slopes":
            self.value = self.add("PRelu", self.value, self.normal(CHANNELS, 1, 1))
        elif name in ("bounds", "most"):
            least = self.weight(np.array(-0.2, np.float32)) if name == "bounds" else ""
            self.value = self.add("Clip", self.value, least, self.weight(np.array(0.6, np.float32)))
        else:
            self.value = self.add({"relu": "Relu", "sigmoid": "Sigmoid"}[name], self.value)

    def graph(self, steps: tuple[str, ...]) -> ir.Model:
        for name in steps:
            self.step(name)
        self.conv(self.value, CHANNELS, CHANNELS, 3, pads=[1, 1, 1, 1])
        self.nodes[-1].output[0] = "y"
        return make_graph(self.nodes, self.weights, CHANNELS, CHANNELS, SIDES, self.batch)


def turned(steps: tuple[str, ...], batch: int | str = 2) -> list[str]:
    """The operators that are left, once they have been seen to compute the same."""
    graph = Chain(batch).graph(steps)
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)
    return kinds(other)


@settings(max_examples=80, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(STEPS), min_size=1, max_size=6), st.sampled_from([2, "N"]))
def test_whatever_lies_between_convolutions_is_the_same(steps: list[str], batch: int | str) -> None:
    turned(tuple(steps), batch)


@pytest.mark.parametrize(
    ("steps", "operator"),
    [
        # StyleGAN2: a demodulation, noise, bias, activation and gain.
        (("own factors", "noise", "offsets", "slope", "gain"), "NhwcAffineSumPRelu"),
        (("own factors", "own offsets", "relu"), "NhwcAffinePRelu"),  # BigGAN: a norm of its class.
        (("own factors", "pictures"), "NhwcAffineSum"),  # Attention to channels, and a residual.
        (("own factors", "own noise", "offset", "factor"), "NhwcAffineSum"),  # Which the factor is behind.
        (("own factors", "slopes", "gains"), "NhwcAffinePRelu"),
        (("own factors", "negative gain"), "NhwcAffine"),
    ],
)
def test_it_is_one_pass(steps: tuple[str, ...], operator: str) -> None:
    left = turned(steps)
    between = [kind for kind in left if kind.startswith("NhwcAffine")]
    assert between[0] == operator
    assert len(between) == 1 + ("factor" in steps)
    assert not {"PRelu", "LeakyRelu", "Relu"} & set(left)
    assert left.count("Mul") <= 1  # Of own factors and a gain: nothing is made of offsets that there are not.
    assert left.count("Transpose") == 2


def test_what_was_rectified_may_not_be_scaled_before_what_is_computed_of_others_is_added() -> None:
    """A gain behind the slopes is one of constants before them, and of no others."""
    left = [kind for kind in turned(("own factors", "pictures", "slope", "gain")) if "Affine" in kind]
    assert left == ["NhwcAffineSumPRelu", "NhwcAffine"]


def test_gains_of_channels_are_ones_of_noise() -> None:
    left = [kind for kind in turned(("own factors", "noise", "slope", "gains")) if "Affine" in kind]
    assert left == ["NhwcAffineSumPRelu"]


@pytest.mark.parametrize("of", ["pixels", "pictures", "a picture"])
def test_what_is_spread_over_pictures_is_right(of: str) -> None:
    """One picture becomes many by a product or a sum, which the operator would not do; of one pixel it does."""
    draft = Chain("N")
    if of == "a picture":
        small = draft.add("ReduceMax", draft.start, draft.weight(np.array([0])), keepdims=1)
        draft.value = draft.add("Mul", small, draft.style())
    else:
        axes = draft.weight(np.array([2, 3] if of == "pixels" else [0]))
        small = draft.add(
            "Mul", draft.add("ReduceMax", draft.start, axes, keepdims=1), draft.normal(CHANNELS, 1, 1)
        )
        rows = draft.add("ReduceMax", draft.start, draft.weight(np.array([2])))
        draft.value = draft.add("Add", small, draft.start if of == "pixels" else rows)
    graph = draft.graph(("slope",))
    other_graph = rewrite(graph, [WHOLLY_NATIVE])
    assert other_graph is not None
    x = picture(2, CHANNELS, *SIDES)
    close(run(other_graph, x), run(graph, x), 1e-5)
    passes = [kind for kind in kinds(other_graph) if kind.startswith("NhwcAffine")]
    assert passes == {"pixels": ["NhwcAffinePRelu"], "pictures": ["NhwcAffine"], "a picture": []}[of]


LEAST, MOST = np.float32(-0.2), np.float32(0.6)
BOUNDED: dict[str, tuple[list[np.ndarray | None], dict[str, np.float32]]] = {
    "both": ([LEAST, MOST], {"low": LEAST, "high": MOST}),
    "ReLU6": ([np.float32(0), np.float32(6)], {"low": np.float32(0), "high": np.float32(6)}),
    "the lower one": ([LEAST], {"low": LEAST}),
    "the upper one": ([None, MOST], {"high": MOST}),
    "none": ([], {}),
    "crossed": ([MOST, LEAST], {"low": MOST, "high": LEAST}),
}


def bounded(draft: Draft, value: str, bounds: Sequence[np.ndarray | None]) -> str:
    """Between bounds of the file; `None` where one is missing."""
    given = ["" if bound is None else draft.weight(np.array(bound)) for bound in bounds]
    return draft.add("Clip", value, *given)


def attributes(node: ir.Node) -> dict[str, float]:
    return {name: attribute.as_float() for name, attribute in node.attributes.items()}


@pytest.mark.parametrize("batch", [2, "N"])
@pytest.mark.parametrize("name", BOUNDED)
def test_bounds_are_a_pass(name: str, batch: int | str) -> None:
    """Without one it is that of Clip, the last finite number."""
    bounds, wanted = BOUNDED[name]
    draft = Chain(batch)
    draft.value = bounded(draft, draft.value, bounds)
    graph = draft.graph(())
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert kinds(other) == ["Transpose", "NhwcConvolution", "NhwcClip", "NhwcConvolution", "Transpose"]
    (node,) = (node for node in other.graph if node.op_type == "NhwcClip")
    last = np.finfo(np.float32)
    assert attributes(node) == {"low": last.min, "high": last.max, **wanted}
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-6)


def test_clamps_follow_activations() -> None:
    """As in StyleGAN2-ADA (arXiv 2006.06676)."""
    steps = ("own factors", "noise", "offsets", "slope", "gain", "bounds", "own factors")
    left = [kind for kind in turned(steps) if kind in ("Clip", "NhwcClip") or "Affine" in kind]
    assert left == ["NhwcAffineSumPRelu", "NhwcClip", "NhwcAffine"]


def test_a_clip_in_bfloat16_is_not_cast() -> None:
    graph = rewrite(Chain().graph(("bounds",)), [WHOLLY_NATIVE])
    assert graph is not None
    low = convert(graph, "bf16")
    assert [kind for kind in kinds(low) if kind not in ("Cast", "Transpose")] == [
        "NhwcConvolution",
        "NhwcClip",
        "NhwcConvolution",
    ]
    assert kinds(low).count("Cast") == 2
    (node,) = (node for node in low.graph if node.op_type == "NhwcClip")
    assert node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.BFLOAT16
    assert attributes(node) == {"low": LEAST, "high": MOST}


OTHER_CLIPS: dict[str, Callable[[Chain], str]] = {
    "a computed bound": lambda d: d.add("Clip", d.start, d.add("ReduceMin", d.start, keepdims=0)),
    "a computed bound, the upper one": lambda d: d.add(
        "Clip", d.start, "", d.add("ReduceMax", d.start, keepdims=0)
    ),
    "one pixel": lambda d: d.add(
        "Add", d.start, bounded(d, d.add("GlobalAveragePool", d.start), [LEAST, MOST])
    ),
    "vectors": lambda d: d.add(
        "Add",
        d.start,
        d.add(
            "Unsqueeze",
            bounded(d, d.add("ReduceMax", d.start, d.weight(np.array([2, 3])), keepdims=0), [LEAST, MOST]),
            d.weight(np.array([2, 3])),
        ),
    ),
    "integers": lambda d: d.add(
        "Cast",
        bounded(d, d.add("Cast", d.start, to=TensorProto.INT32), [np.int32(0), np.int32(2)]),
        to=TensorProto.FLOAT,
    ),
}


@pytest.mark.parametrize("name", OTHER_CLIPS)
def test_other_bounds_are_not(name: str) -> None:
    draft = Chain()
    draft.value = OTHER_CLIPS[name](draft)
    graph = draft.graph(())
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert "Clip" in kinds(other) and "NhwcClip" not in kinds(other)
    x = 3 * picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)


def test_bounds_are_single_numbers() -> None:
    """ONNX Runtime says what is wrong with others."""
    draft = Chain()
    draft.value = draft.add("Clip", draft.start, draft.normal(CHANNELS, 1, 1))
    other = rewrite(draft.graph(()), [WHOLLY_NATIVE])
    assert other is not None
    assert "NhwcClip" not in kinds(other)


def test_bounds_of_pixels_stay() -> None:
    """Before the first convolution and behind the last; bfloat16 is not for what is shown."""
    draft = Draft(CHANNELS, 0)
    value = draft.conv(bounded(draft, "x", [LEAST, MOST]), CHANNELS, CHANNELS)
    bounded(draft, draft.conv(value, CHANNELS, CHANNELS), [np.float32(0), np.float32(1)])
    other = rewrite(draft.graph(), [WHOLLY_NATIVE])
    assert other is not None
    assert kinds(other).count("Clip") == 2
    x = picture(2, CHANNELS, 7, 6)
    close(run(other, x), run(draft.graph(), x), 1e-5)


def test_a_sum_of_one_filter_is_no_ending_of_it() -> None:
    draft = Chain()
    kernels = draft.normal(CHANNELS, 1, 3, 3)
    filtered = draft.add("Conv", draft.start, kernels, group=CHANNELS, pads=[1, 1, 1, 1])
    draft.value = draft.add("Add", filtered, draft.start)
    graph = draft.graph(())
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert kinds(other).count("NhwcDepthwiseConvolution") == 1
    assert "BorderedBlocks" not in kinds(other)  # Zeros around are read without a copy.
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)


def test_a_negative_gain_is_not_one_of_what_is_rectified() -> None:
    assert [kind for kind in turned(("own factors", "slope", "negative gain")) if "Affine" in kind] == [
        "NhwcAffinePRelu",
        "NhwcAffine",
    ]


def test_pixels_are_not_for_bfloat16() -> None:
    """What is computed before the first convolution and behind the last stays."""
    draft = Chain()
    start = draft.add("Mul", "x", draft.normal(CHANNELS, 1, 1))
    draft.value = draft.conv(draft.conv(start, CHANNELS, CHANNELS), CHANNELS, CHANNELS)
    draft.step("own factors")
    draft.add("LeakyRelu", draft.value)
    draft.nodes[-1].output[0] = "y"
    del draft.nodes[0]
    graph = make_graph(draft.nodes, draft.weights, CHANNELS, CHANNELS, SIDES, 2)
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    assert not any(kind.startswith("NhwcAffine") for kind in kinds(other))


@pytest.mark.parametrize("kind", ["factors", "with a bias", "of pixels"])
def test_factors_may_go_behind_filters(kind: str) -> None:
    """Those of channels, for what a filter without a bias reads."""
    draft = Chain()
    draft.step("own factors")
    if kind == "of pixels":
        draft.value = draft.add("Mul", draft.start, draft.add("Abs", draft.normal(1, 1, *SIDES)))
    more = [draft.normal(CHANNELS)] if kind == "with a bias" else []
    kernels = draft.normal(CHANNELS, 1, 3, 3)
    draft.value = draft.add("Conv", draft.value, kernels, *more, group=CHANNELS, pads=[1, 1, 1, 1])
    graph = draft.graph(("noise", "slope"))
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)
    passes = [node for node in other.graph if node.op_type.startswith("NhwcAffine")]
    assert len(passes) == {"factors": 1, "with a bias": 2, "of pixels": 1}[kind]
    filtered = next(node for node in other.graph if node.op_type == "NhwcDepthwiseConvolution")
    behind = [user for user, _ in filtered.outputs[0].uses()]
    assert behind == passes[-1:]


def test_vectors_may_keep_some_of_their_sides() -> None:
    draft = Chain()
    means = draft.add("ReduceMean", draft.start, draft.weight(np.array([2, 3])), keepdims=1)
    row = draft.add("Sigmoid", draft.add("Squeeze", means, draft.weight(np.array([3]))))
    draft.value = draft.add("Mul", draft.start, draft.add("Unsqueeze", row, draft.weight(np.array([3]))))
    graph = draft.graph(())
    other = rewrite(graph, [WHOLLY_NATIVE])
    assert other is not None
    x = picture(2, CHANNELS, *SIDES)
    close(run(other, x), run(graph, x), 1e-5)


def test_zeros_around_what_a_filter_reads_are_not_copied() -> None:
    draft = Draft(12, 0)
    start = draft.conv("x", 12, 12)
    filtered = draft.add("Conv", start, draft.normal(12, 1, 3, 3), group=12, pads=[2, 0, 1, 1])
    draft.conv(filtered, 12, 12, 1)
    other = rewrite(draft.graph(), [WHOLLY_NATIVE])
    assert other is not None
    assert "BorderedBlocks" not in kinds(other)
    x = picture(2, 12, 7, 6)
    close(run(other, x), run(draft.graph(), x), 1e-5)

# SPDX-License-Identifier: Apache-2.0
"""What each product builds for which architecture, and the equal graph that it builds where it refuses one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gantk.bundle import PRECISIONS, Engine, HeavyLayer
from gantk.errors import GantkError, UsageError
from gantk.runtime import driver
from gantk.runtime.products import Product

if TYPE_CHECKING:
    import onnx_ir as ir

    from gantk.export.engines.build import BuildOptions

OLDEST_TARGET = {"bf16": 80, "tf32": 80, "fp8": 89}
"""Of a precision, the first compute capability whose matrix units have it; of the others any will do."""

FP32_PRODUCTS_TARGET = 80
"""The first compute capability for which TensorRT for RTX has float32 matrix products."""

REFUSED = {("tensorrt-rtx", "bf16"): "ConvTranspose"}
"""The operator that a product has in other precisions and not in this one."""

REMAINDER = "float16-remainder"
"""What an engine's manifest calls the rewrite of an int8 or fp8 file whose other layers have become fp16."""

FP16_SCALES = {"QuantizeLinear": 2.0**-14, "DequantizeLinear": 2.0**-21}
"""By operator the smallest scale that may become fp16. Of activations it is the smallest that fp16 holds with all its
digits. Weights into which 1/255 was folded have scales around 2^-19 in int8 and 2^-21 in fp8, where fp16 is off by at
most 2 and 6 %, about as much as a value of theirs is."""

MODULATED = "modulated-to-features"
"""The rewrite that gives transposed convolutions constant weights, which those below want."""

SUBPIXEL = ("narrow-transposed-to-subpixel", "transposed-to-subpixel")
PHASES = "transposed-to-phases"
"""The rewrites that do without transposed convolutions; they only move weights, so they are exact in any type. The last
takes whatever others leave."""


def lacks(product: Product, precision: str, target: str, layers: Sequence[HeavyLayer] = ()) -> str | None:
    """Why an engine cannot be had for an architecture, in words, or `None`.

    Args:
        product: That is to build it.
        precision: What the engine computes in, of `gantk.bundle.ENGINE_PRECISIONS`.
        target: E.g. ``sm_89``.
        layers: The heavy layers, where they are known.
    """
    capability = int(target.removeprefix("sm_"))
    oldest = OLDEST_TARGET.get(precision, 0)
    if capability < oldest:
        return f"{target} does not compute in {precision}, which begins with sm_{oldest}"
    if product.name == "tensorrt-rtx" and capability < FP32_PRODUCTS_TARGET:
        layer = next((w for w in layers if (w.kind, w.precision) == ("matrix-multiply", "fp32")), None)
        if layer is not None:
            return f"{product.name} has no fp32 matrix products for {target}, and `{layer.name}` is one"
    return None


def refuse_here(product: Product, precision: str) -> None:
    """Refuse a precision that the GPU at hand does not compute in, where a product builds for no other.

    Raises:
        UsageError: It does not.
    """
    here = driver.targets_here()
    reason = None if product.ahead_of_time or not here else lacks(product, precision, here[0])
    if reason is not None:
        raise UsageError(
            reason, where="--precision", hint="fp16 builds for any: gantk export RUN --precision fp16"
        )


def asked_targets(
    product: Product, named: tuple[str, ...], options: Sequence[str], known: Sequence[str]
) -> tuple[str, ...]:
    """The architectures that were asked for, of a product that builds ahead of time; none where all are wanted.

    TensorRT for RTX builds a refittable engine for a single one: of several it says ``CHECK(sm_vers_.size() == 1)
    failed``. That of the GPU at hand is taken where none is named.

    Args:
        product: That is to build it.
        named: The architectures that were named.
        options: Of `gantk.bundle.ENGINE_OPTIONS`.
        known: What the product builds for.

    Raises:
        UsageError: Several are named for a refittable engine, or none, and the product does not build for the GPU
            at hand.
    """
    if not product.ahead_of_time or "refit" not in options:
        return named
    asked = named or driver.targets_here()
    if len(asked) > 1:
        raise UsageError(
            f"{product.name} builds a refit engine for one architecture; asked for are {', '.join(asked)}",
            where="--target",
            hint=f"--target {asked[0]}; another export adds another engine",
        )
    if not set(asked) <= set(known):
        raise UsageError(
            f"{product.name} does not build for {asked[0]}, the GPU at hand; it has {', '.join(known)}",
            where="--target",
            hint="name another architecture with --target: a refit engine is for a single one",
        )
    return asked


def choose_targets(
    product: Product,
    precision: str,
    asked: Sequence[str],
    known: Sequence[str],
    layers: Sequence[HeavyLayer] = (),
) -> tuple[str, ...]:
    """The architectures to build for: those asked for, or all for which a product builds this.

    Raises:
        UsageError: One that was asked for cannot be had.
    """
    # The same engine, in whatever order they are named.
    ordered = sorted(asked or known, key=lambda target: (len(target), target))
    reasons = {target: lacks(product, precision, target, layers) for target in ordered}
    refused = {target: reason for target, reason in reasons.items() if reason is not None}
    if asked and refused:
        target, reason = next(iter(refused.items()))
        raise UsageError(reason, where="--target", hint=_instead(product, target, layers))
    return tuple(target for target, reason in reasons.items() if reason is None)


def missed_targets(
    product: Product, engine: Engine, known: Sequence[str], options: BuildOptions
) -> list[str]:
    """Why an engine is not for some architectures of its product, where it should be for all that can be had."""
    if not product.ahead_of_time or options.targets or "refit" in options.options:
        return []
    reasons = (lacks(product, engine.executed, target, engine.heavy_layers) for target in known)
    return [reason for reason in reasons if reason is not None]


def _instead(product: Product, target: str, layers: Sequence[HeavyLayer]) -> str:
    """What to do where a file's precision cannot be had for an architecture."""
    fitting = [precision for precision in PRECISIONS if lacks(product, precision, target) is None]
    if layers:  # A float32 layer may be at fault, which quantised files have too.
        fitting = [precision for precision in fitting if precision in ("fp16", "bf16")]
    *others, last = fitting
    choice = f"{', '.join(others)} or {last}" if others else last
    return f"leave {target} out of --target, or build for it alone with --precision {choice}"


def adapt(
    product: Product, data: bytes, precision: str, where: str, *, fits_fp16: bool = False
) -> tuple[bytes, tuple[str, ...]]:
    """An ONNX file that a product builds, and the names of the rewrites that made it of `data`.

    Args:
        product: That is to build it.
        data: An ONNX file.
        precision: Of the file.
        where: Its name, for errors.
        fits_fp16: Whether the network is known to stay within what fp16 holds; then what is not quantised in an int8
            or fp8 file becomes fp16, as it is on GPUs.

    Raises:
        GantkError: It has a transposed convolution that no rewrite takes, which would not build.
    """
    if precision in ("int8", "fp8") and fits_fp16:
        return _narrow_remainder(data)
    operator = REFUSED.get((product.name, precision))
    if operator is None or operator.encode() not in data:
        return data, ()
    import onnx
    import onnx_ir as ir

    from gantk.export.rewrites import REWRITES
    from gantk.export.rewrites.phases import transposed_to_phases

    # A foreign file may not declare the types of its tensors, from which new weights take theirs.
    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load_from_string(data)))
    rewrites = {**{name: REWRITES[name] for name in (MODULATED, *SUBPIXEL)}, PHASES: transposed_to_phases}
    applied = tuple(name for name, apply in rewrites.items() if apply(graph))
    left = next((node for node in graph.graph if node.op_type == operator), None)
    if left is not None:
        raise GantkError(
            f"layer `{left.name}` of `{where}` is a transposed convolution, which {product.name} does not build in "
            f"{precision}; gantk turns those of pictures, with one stride, into sub-pixel convolutions",
            where=f"{where}, layer {left.name}",
            hint="a fp16 file builds: --precision fp16",
        )
    return ir.to_proto(graph).SerializeToString(), applied


def _narrow_remainder(data: bytes) -> tuple[bytes, tuple[str, ...]]:
    """A quantised file whose other layers are fp16, but for islands; as it is where a scale is too small for fp16."""
    import onnx
    import onnx_ir as ir

    from gantk.export.precision import convert

    graph = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.load_from_string(data), data_prop=True))
    if any(_is_too_small(node) for node in graph.graph):
        return data, ()
    return ir.to_proto(convert(graph, "fp16")).SerializeToString(), (REMAINDER,)


def _is_too_small(node: ir.Node) -> bool:
    """Whether a node has a scale that fp16 does not hold, or one that only a run tells."""
    least = FP16_SCALES.get(node.op_type)
    if least is None:
        return False
    scale = node.inputs[1]
    return scale is None or scale.const_value is None or bool(scale.const_value.numpy().min() < least)

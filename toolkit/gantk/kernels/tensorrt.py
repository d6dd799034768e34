# SPDX-License-Identifier: Apache-2.0
"""The Gram matrix and total variation as TensorRT's quick deployable plugins, whose PTX goes into the engine.

An engine needs nothing of gantk when it runs. A plugin is one kernel without a workspace, so that each operation is
two: partial results, an ordinary tensor, and their sum.

    GramPartial (features T[N, C, ...]) => (partial float32[N, splits, tiles, tile, tile])
    GramReduce (partial, features) => (gram float32[N, C, C])
    VariationPartial (pictures T[N, C, H, W]) => (partials float32[N, blocks], gradient T[N, C, H, W])
    VariationFinish (partials) => (value float32[N])

`gantk.kernels.tensorrt_graph` puts them in the place of a graph's nodes and sets their attributes. Sizes may be open
(dynamic): what depends on them is computed from TensorRT's symbolic expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from gantk.errors import BackendMissingError, GantkError
from gantk.kernels.architecture import Target
from gantk.kernels.gram_plan import REDUCE_THREADS
from gantk.kernels.launch import ELEMENT_BYTES
from gantk.kernels.parameters import PATCH_SUMS, VARIATION_THREADS
from gantk.kernels.tensorrt_source import (
    SIMT,
    Kernel,
    finish_kernel,
    partial_kernel,
    reduce_kernel,
    threads_of,
    variation_kernel,
)

NAMESPACE = "gantk"
STEP_BYTES, STAGES = 128, 2  # Of a channel in one step of a kernel on tensor cores, and steps under way.
MOST_SHARED_BYTES = 48 * 1024  # What every kernel has without asking, its static variables included.
STATIC_BYTES = 1024  # No kernel here has more of these beside its dynamic shared memory.
AS_PLANNED, WITHOUT_TENSOR_CORES = 1, 2  # Tactics, which TensorRT times.
_SIMT_STEP, _SIMT_TILE = 16, 64


def register(trt: Any = None, *, lazy: bool = False) -> None:
    """Make the plugins known to TensorRT, once for a process.

    Args:
        trt: The module ``tensorrt``; imported by default.
        lazy: Leave TensorRT's own registry until a plugin is first used by ``tensorrt.plugin.op``; the ONNX parser
            does not find it there.

    Raises:
        BackendMissingError: TensorRT is not installed, or is older than its quick plugins with PTX (10.9).
    """
    trt, plugins = _modules(trt)
    if hasattr(plugins.op, NAMESPACE):
        return
    for define in (_gram_partial, _gram_reduce, _variation_partial, _variation_finish):
        define(_Definer(trt, plugins, lazy))


def _modules(trt: Any) -> tuple[Any, Any]:
    try:
        trt = trt or import_module("tensorrt")
        plugins = getattr(trt, "plugin", None) or import_module(f"{trt.__name__}.plugin")
        plugins.aot_impl  # noqa: B018
    except (ImportError, AttributeError) as error:
        raise BackendMissingError(
            f"TensorRT's quick deployable plugins are not there: {error}",
            hint="pip install 'gantk[tensorrt]'",
        ) from error
    return trt, plugins


class _Definer:
    """Hands functions to ``tensorrt.plugin``, which reads of their annotations what they take.

    Args:
        trt: The module ``tensorrt``.
        plugins: Its module ``plugin``.
        lazy: As for `register`.
    """

    def __init__(self, trt: Any, plugins: Any, lazy: bool) -> None:
        self.trt, self.plugins, self._lazy = trt, plugins, lazy
        self._names = {trt.float32: "float32", trt.float16: "float16", trt.bfloat16: "bfloat16"}

    def dtype(self, tensor: Any) -> str:
        if tensor.dtype not in self._names:
            raise GantkError(f"a tensor is {tensor.dtype}; the plugins take {', '.join(ELEMENT_BYTES)}")
        return self._names[tensor.dtype]

    def plugin(
        self,
        name: str,
        inputs: Sequence[str],
        attributes: dict[str, type],
        describe: Callable[..., Any],
        outputs: int,
        implement: Callable[..., Any],
        autotune: Callable[..., Any] | None = None,
    ) -> None:
        """One plugin: what comes out, the kernel that makes it, and which tactics there are."""
        tensor, plugins = self.plugins.TensorDesc, self.plugins
        given = {**dict.fromkeys(inputs, tensor), **attributes}
        generic: Any = tuple
        several = generic[(tensor,) * outputs]
        made = generic[str, str, plugins.KernelLaunchParams, plugins.SymIntExprs]
        plugin_id = f"{NAMESPACE}::{name}"
        describe.__annotations__ = {**given, "return": several}
        plugins.register(plugin_id, lazy_register=self._lazy)(describe)
        if autotune is not None:
            combinations: Any = list
            combinations = combinations[plugins.AutoTuneCombination]
            autotune.__annotations__ = {**given, "outputs": several, "return": combinations}
            plugins.autotune(plugin_id)(autotune)
        implement.__annotations__ = {**given, "outputs": several, "tactic": int, "return": made}
        plugins.aot_impl(plugin_id)(implement)

    def launch(
        self,
        kernel: Kernel,
        target: str,
        grid: tuple[Any, Any],
        threads: int,
        arguments: Sequence[Any],
        shared: int = 0,
    ) -> tuple[str, str, Any, Any]:
        """What ``aot_impl`` returns: the kernel, how it is launched, and its integers."""
        launch = self.plugins.KernelLaunchParams()
        launch.grid_x, launch.grid_y = grid
        launch.block_x = threads
        launch.shared_mem = shared
        integers = self.plugins.SymIntExprs(len(arguments))
        for index, argument in enumerate(arguments):
            integers[index] = self.plugins.SymInt32(argument)
        return kernel.name, kernel.ptx(Target(target)), launch, integers

    def places(self, features: Any) -> Any:
        """The product of all sizes after those of batch and channels."""
        sizes = list(features.shape_expr)[2:]
        places = sizes[0]
        for size in sizes[1:]:
            places = places * size
        return places

    def tiles(self, channels: Any, tile: int) -> Any:
        """Of the lower triangle."""
        rows = self.plugins.cdiv(channels, tile)
        return rows * (rows + 1) // 2

    def sliced(self, places: Any, splits: int, step: int) -> tuple[Any, Any]:
        """Places of a slice, in whole steps, and how many slices these are: `splits`, or fewer of few places."""
        size = self.plugins.cdiv(self.plugins.cdiv(places, splits), step) * step
        return size, self.plugins.cdiv(places, size)


def step_of(math: str, dtype: str) -> int:
    """Places that a kernel of partial sums takes at a time; slices are multiples of it."""
    return _SIMT_STEP if math == SIMT else STEP_BYTES // ELEMENT_BYTES[dtype]


def _gram_partial(to: _Definer) -> None:
    def describe(features: Any, math: str, tile: int, splits: int, target: str) -> Any:
        batch, channels = tuple(features.shape_expr)[:2]
        shape = (batch, splits, to.tiles(channels, tile), tile, tile)
        return (to.plugins.from_shape_expr(shape, to.trt.float32),)

    def autotune(features: Any, math: str, tile: int, splits: int, target: str, outputs: Any) -> Any:
        types = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}[to.dtype(features)]
        second = [WITHOUT_TENSOR_CORES] if math != SIMT and tile == _SIMT_TILE else []
        return [to.plugins.AutoTuneCombination(f"{types}, FP32", "LINEAR", [AS_PLANNED, *second])]

    def implement(
        features: Any, math: str, tile: int, splits: int, target: str, outputs: Any, tactic: int
    ) -> Any:
        dtype = to.dtype(features)
        used = SIMT if tactic == WITHOUT_TENSOR_CORES else math
        batch, channels = tuple(features.shape_expr)[:2]
        places = to.places(features)
        # Both tactics cut alike, for the reduction counts the slices again.
        size, count = to.sliced(places, splits, step_of(math, dtype))
        # Of rows and of columns, which are the same where one tile has all channels.
        strips = 1 if features.shape[1] <= tile else 2
        shared = 0 if used == SIMT else STAGES * tile * STEP_BYTES * strips
        if shared > MOST_SHARED_BYTES - STATIC_BYTES:
            raise GantkError(
                f"tiles of {tile} of features with {features.shape[1]} channels want {shared} bytes of shared memory; "
                f"a plugin has {MOST_SHARED_BYTES}"
            )
        grid = to.tiles(channels, tile) * count, batch
        arguments = channels, places, size, count
        return to.launch(
            partial_kernel(dtype, used, tile), target, grid, threads_of(used, tile), arguments,
            shared,
        )  # fmt: skip

    attributes = {"math": str, "tile": int, "splits": int, "target": str}
    to.plugin("GramPartial", ["features"], attributes, describe, 1, implement, autotune)


def _gram_reduce(to: _Definer) -> None:
    def describe(
        partial: Any, features: Any, math: str, tile: int, splits: int, groups: int, scale: float, target: str
    ) -> Any:
        batch, channels = tuple(features.shape_expr)[:2]
        return (to.plugins.from_shape_expr((batch, channels, channels), to.trt.float32),)

    def implement(
        partial: Any, features: Any, math: str, tile: int, splits: int, groups: int, scale: float, target: str,
        outputs: Any, tactic: int,
    ) -> Any:  # fmt: skip
        batch, channels = tuple(features.shape_expr)[:2]
        places = to.places(features)
        _, count = to.sliced(places, splits, step_of(math, to.dtype(features)))
        grid = to.tiles(channels, tile) * (tile * tile // PATCH_SUMS[groups]), batch
        return to.launch(
            reduce_kernel(tile, groups, scale), target, grid, REDUCE_THREADS, (channels, places, count)
        )

    attributes = {"math": str, "tile": int, "splits": int, "groups": int, "scale": float, "target": str}
    to.plugin("GramReduce", ["partial", "features"], attributes, describe, 1, implement)


def _variation_partial(to: _Definer) -> None:
    def blocks(pictures: Any, rows: int, packed: int) -> Any:
        _, channels, height, width = pictures.shape_expr
        across = width // (16 // ELEMENT_BYTES[to.dtype(pictures)]) if packed else width
        return to.plugins.cdiv(channels * across, VARIATION_THREADS) * to.plugins.cdiv(height, rows)

    def describe(pictures: Any, kind: str, epsilon: float, rows: int, packed: int, target: str) -> Any:
        batch, *_ = pictures.shape_expr
        shape = batch, blocks(pictures, rows, packed)
        # Not `pictures.like()`, which fails in 11.4 where shapes are known.
        same = to.plugins.from_shape_expr(tuple(pictures.shape_expr), pictures.dtype)
        return to.plugins.from_shape_expr(shape, to.trt.float32), same

    def implement(
        pictures: Any,
        kind: str,
        epsilon: float,
        rows: int,
        packed: int,
        target: str,
        outputs: Any,
        tactic: int,
    ) -> Any:
        batch, channels, height, width = pictures.shape_expr
        if packed and pictures.shape[3] % (16 // ELEMENT_BYTES[to.dtype(pictures)]) != 0:
            raise GantkError(
                f"rows of {pictures.shape[3]} pixels (-1: any number) are no whole number of packs of 16 bytes"
            )
        kernel = variation_kernel(to.dtype(pictures), kind, epsilon, packed=bool(packed))
        grid = blocks(pictures, rows, packed), batch
        return to.launch(kernel, target, grid, VARIATION_THREADS, (channels, height, width, rows))

    attributes = {"kind": str, "epsilon": float, "rows": int, "packed": int, "target": str}
    to.plugin("VariationPartial", ["pictures"], attributes, describe, 2, implement)


def _variation_finish(to: _Definer) -> None:
    def describe(partials: Any, target: str) -> Any:
        batch, _ = partials.shape_expr
        return (to.plugins.from_shape_expr((batch,), to.trt.float32),)

    def implement(partials: Any, target: str, outputs: Any, tactic: int) -> Any:
        batch, blocks = partials.shape_expr
        return to.launch(finish_kernel(), target, (1, batch), VARIATION_THREADS, (blocks,))

    to.plugin("VariationFinish", ["partials"], {"target": str}, describe, 1, implement)

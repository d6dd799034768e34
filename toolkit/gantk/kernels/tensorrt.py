# SPDX-License-Identifier: Apache-2.0
"""The Gram matrix and total variation as TensorRT's quick deployable plugins, whose PTX goes into the engine.

An engine needs nothing of gantk when it runs. A plugin is one kernel without a workspace, so that each operation is
two: partial results, an ordinary tensor, and their sum.

    GramPartial (features T[N, C, ...]) => (partial float32[N, splits, tiles, tile, tile])
    GramReduce (partial, features) => (gram float32[N, C, C])
    VariationPartial (pictures T[N, C, H, W]) => (partials float32[N, blocks], gradient T[N, C, H, W])
    VariationFinish (partials) => (value float32[N])

`gantk.kernels.tensorrt_graph` puts them in the place of a graph's nodes and tells them their settings. Sizes may be
open (dynamic): what depends on them is computed from TensorRT's symbolic expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from importlib import import_module
from typing import Any

from gantk.errors import BackendMissingError, GantkError
from gantk.kernels.architecture import Target
from gantk.kernels.gram_plan import REDUCE_THREADS
from gantk.kernels.launch import ELEMENT_BYTES
from gantk.kernels.parameters import PATCH_SUMS, VARIATION_THREADS
from gantk.kernels.tensorrt_settings import ATTRIBUTE, GramSettings, Settings, VariationSettings
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

_raised: list[Exception] = []


def take_raised() -> Exception | None:
    """What a plugin raised first since this was asked last: TensorRT goes on, says nothing of it and builds nothing."""
    first = next(iter(_raised), None)
    _raised.clear()
    return first


def _telling(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def told(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except Exception as error:
            _raised.append(error)
            raise

    return told


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
        describe: Callable[..., Any],
        outputs: int,
        implement: Callable[..., Any],
        autotune: Callable[..., Any] | None = None,
    ) -> None:
        """One plugin: what comes out, the kernel that makes it, and which tactics there are."""
        tensor, plugins = self.plugins.TensorDesc, self.plugins
        given = {**dict.fromkeys(inputs, tensor), ATTRIBUTE: str}
        generic: Any = tuple
        several = generic[(tensor,) * outputs]
        made = generic[str, str, plugins.KernelLaunchParams, plugins.SymIntExprs]
        plugin_id = f"{NAMESPACE}::{name}"
        describe.__annotations__ = {**given, "return": several}
        plugins.register(plugin_id, lazy_register=self._lazy)(_telling(describe))
        if autotune is not None:
            combinations: Any = list
            combinations = combinations[plugins.AutoTuneCombination]
            autotune.__annotations__ = {**given, "outputs": several, "return": combinations}
            plugins.autotune(plugin_id)(_telling(autotune))
        implement.__annotations__ = {**given, "outputs": several, "tactic": int, "return": made}
        plugins.aot_impl(plugin_id)(_telling(implement))

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
    def describe(features: Any, settings: str) -> Any:
        cut = GramSettings.read(settings)
        batch, channels = tuple(features.shape_expr)[:2]
        shape = (batch, cut.splits, to.tiles(channels, cut.tile), cut.tile, cut.tile)
        return (to.plugins.from_shape_expr(shape, to.trt.float32),)

    def autotune(features: Any, settings: str, outputs: Any) -> Any:
        cut = GramSettings.read(settings)
        types = {"float32": "FP32", "float16": "FP16", "bfloat16": "BF16"}[to.dtype(features)]
        second = [WITHOUT_TENSOR_CORES] if cut.math != SIMT and cut.tile == _SIMT_TILE else []
        return [to.plugins.AutoTuneCombination(f"{types}, FP32", "LINEAR", [AS_PLANNED, *second])]

    def implement(features: Any, settings: str, outputs: Any, tactic: int) -> Any:
        cut, dtype = GramSettings.read(settings), to.dtype(features)
        used = SIMT if tactic == WITHOUT_TENSOR_CORES else cut.math
        batch, channels = tuple(features.shape_expr)[:2]
        places = to.places(features)
        # Both tactics cut alike, for the reduction counts the slices again.
        size, count = to.sliced(places, cut.splits, step_of(cut.math, dtype))
        # Of rows and of columns, which are the same where one tile has all channels.
        strips = 1 if features.shape[1] <= cut.tile else 2
        shared = 0 if used == SIMT else STAGES * cut.tile * STEP_BYTES * strips
        if shared > MOST_SHARED_BYTES - STATIC_BYTES:
            raise GantkError(
                f"tiles of {cut.tile} of features with {features.shape[1]} channels want {shared} bytes of shared "
                f"memory; a plugin has {MOST_SHARED_BYTES}"
            )
        grid = to.tiles(channels, cut.tile) * count, batch
        arguments = channels, places, size, count
        return to.launch(
            partial_kernel(dtype, used, cut.tile), cut.target, grid, threads_of(used, cut.tile), arguments,
            shared,
        )  # fmt: skip

    to.plugin("GramPartial", ["features"], describe, 1, implement, autotune)


def _gram_reduce(to: _Definer) -> None:
    def describe(partial: Any, features: Any, settings: str) -> Any:
        batch, channels = tuple(features.shape_expr)[:2]
        return (to.plugins.from_shape_expr((batch, channels, channels), to.trt.float32),)

    def implement(partial: Any, features: Any, settings: str, outputs: Any, tactic: int) -> Any:
        cut = GramSettings.read(settings)
        batch, channels = tuple(features.shape_expr)[:2]
        places = to.places(features)
        _, count = to.sliced(places, cut.splits, step_of(cut.math, to.dtype(features)))
        grid = to.tiles(channels, cut.tile) * (cut.tile * cut.tile // PATCH_SUMS[cut.groups]), batch
        kernel = reduce_kernel(cut.tile, cut.groups, cut.scale)
        return to.launch(kernel, cut.target, grid, REDUCE_THREADS, (channels, places, count))

    to.plugin("GramReduce", ["partial", "features"], describe, 1, implement)


def _variation_partial(to: _Definer) -> None:
    def blocks(pictures: Any, cut: VariationSettings) -> Any:
        _, channels, height, width = pictures.shape_expr
        across = width // (16 // ELEMENT_BYTES[to.dtype(pictures)]) if cut.packed else width
        return to.plugins.cdiv(channels * across, VARIATION_THREADS) * to.plugins.cdiv(height, cut.rows)

    def describe(pictures: Any, settings: str) -> Any:
        batch, *_ = pictures.shape_expr
        shape = batch, blocks(pictures, VariationSettings.read(settings))
        # Not `pictures.like()`, which fails in 11.4 where shapes are known.
        same = to.plugins.from_shape_expr(tuple(pictures.shape_expr), pictures.dtype)
        return to.plugins.from_shape_expr(shape, to.trt.float32), same

    def implement(pictures: Any, settings: str, outputs: Any, tactic: int) -> Any:
        cut = VariationSettings.read(settings)
        batch, channels, height, width = pictures.shape_expr
        if cut.packed and pictures.shape[3] % (16 // ELEMENT_BYTES[to.dtype(pictures)]) != 0:
            raise GantkError(
                f"rows of {pictures.shape[3]} pixels (-1: any number) are no whole number of packs of 16 bytes"
            )
        kernel = variation_kernel(to.dtype(pictures), cut.kind, cut.epsilon, packed=cut.packed)
        grid = blocks(pictures, cut), batch
        return to.launch(kernel, cut.target, grid, VARIATION_THREADS, (channels, height, width, cut.rows))

    to.plugin("VariationPartial", ["pictures"], describe, 2, implement)


def _variation_finish(to: _Definer) -> None:
    def describe(partials: Any, settings: str) -> Any:
        batch, _ = partials.shape_expr
        return (to.plugins.from_shape_expr((batch,), to.trt.float32),)

    def implement(partials: Any, settings: str, outputs: Any, tactic: int) -> Any:
        batch, blocks = partials.shape_expr
        target = Settings.read(settings).target
        return to.launch(finish_kernel(), target, (1, batch), VARIATION_THREADS, (blocks,))

    to.plugin("VariationFinish", ["partials"], describe, 1, implement)

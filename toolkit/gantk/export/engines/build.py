# SPDX-License-Identifier: Apache-2.0
"""One ONNX file into one engine, with either TensorRT product."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from gantk.bundle import Profile
from gantk.errors import GantkError, UsageError
from gantk.export.engines.audit import Audit, audit, refuse_mismatch
from gantk.export.engines.cells import asked_targets, choose_targets, refuse_here
from gantk.export.engines.network import check_tensors, parse
from gantk.export.engines.plugins import WITHOUT, put_kernels, raised_in_kernels
from gantk.export.engines.progress import Interrupter, Progress, make_monitor
from gantk.files import cache_folder, read_bytes, write_bytes
from gantk.runtime import cuda, driver
from gantk.runtime.backends.vendor import vendor_errors
from gantk.runtime.cuda import Cuda, is_shortage
from gantk.runtime.product_log import Log, log
from gantk.runtime.products import Product, load, need_driver, targets


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Args:
        targets: The GPU architectures, e.g. ``sm_89``, where the product builds ahead of time; by default all for
            which it can be had, or with ``refit`` that of the GPU at hand.
        tf32: Let fp32 layers round their inputs to 10 bits of mantissa.
        workspace_bytes: The most scratch memory that a layer may use; by default all that the GPU has.
        options: Of `gantk.bundle.ENGINE_OPTIONS`.
        plugins: Put gantk's own kernels into the engine where its product takes them.
        reproducible: Build the same bytes every time, in a process of its own whose threads take turns. Only for a
            product that does not choose by measuring.
    """

    targets: tuple[str, ...] = ()
    tf32: bool = False
    workspace_bytes: int | None = None
    options: tuple[str, ...] = ()
    plugins: bool = True
    reproducible: bool = False

    def executed(self, precision: str) -> str:
        """What an engine of a file of this precision computes in, of `gantk.bundle.ENGINE_PRECISIONS`."""
        return "tf32" if self.tf32 and precision == "fp32" else precision


@dataclass(frozen=True)
class Built:
    """A finished engine and what is known of it; `rewrites` are those that the build itself made."""

    data: bytes
    found: Audit
    targets: tuple[str, ...]
    timing_cache: str | None
    rewrites: tuple[str, ...] = ()


def build(
    product: Product,
    data: bytes,
    precision: str,
    profiles: Sequence[Profile],
    options: BuildOptions,
    where: str,
    progress: Progress = lambda phase, done, steps: None,
) -> Built:
    """Build a strongly typed engine.

    Args:
        product: That builds, and will run, it.
        data: An ONNX file with its weights inside.
        precision: What its heavy layers must compute in, as audited after the build.
        profiles: The shapes to serve, one or more.
        options: See `BuildOptions`.
        where: The file's name in errors.
        progress: Told how far it is.

    Raises:
        BackendMissingError: The product is not installed, or wants a GPU for this.
        UsageError: An option that the product does not have.
        GantkError: The parser refuses a node, an input or output cannot be fed, the build fails, or a heavy layer
            computes in another precision.
    """
    trt = load(product)
    check_options(product, trt, options)
    refuse_here(product, options.executed(precision))
    interrupter = Interrupter()
    telling = partial(vendor_errors, f"{product.name} cannot build `{where}`", where)
    with log(trt).listening():
        with telling():
            builder = _made(trt.Builder(log(trt).logger), "a builder", log(trt), where)
            rewrites: tuple[str, ...] = ()
            if options.plugins:
                sizes = {name: shapes.opt for name, shapes in profiles[0].items()}
                data, rewrites = put_kernels(product, trt, data, sizes, options.options, tf32=options.tf32)
            try:
                network = parse(trt, builder, data, where)
            except GantkError as error:
                raise (raised_in_kernels() if rewrites else None) or error from None
        check_tensors(trt, network, data, where)
        # The builder changes no type of a strongly typed network: what is wrong now would be wrong in the engine.
        found = audit(trt, network)
        refuse_mismatch(found, precision, where)
        asked = asked_targets(product, options.targets, options.options, targets(trt))
        executed = options.executed(precision)
        known = choose_targets(product, executed, asked, targets(trt), found.heavy_layers)
        served = known or driver.targets_here()
        with telling():
            config = _configure(trt, builder, options, known)
            _add_profiles(builder, config, profiles, where)
            if hasattr(config, "progress_monitor"):
                config.progress_monitor = make_monitor(trt, progress, interrupter)
            cache = _give_timing_cache(config, product, where) if product.keeps_timing_cache else None
            serialized = _serialized(trt, builder, network, config)
        if interrupter.raised is not None:
            raise interrupter.raised
        if serialized is None:
            raised = raised_in_kernels() if rewrites else None
            raise raised or _failure(product, precision, served, where, log(trt).said(), rewrites)
        return Built(
            bytes(serialized),
            audit(trt, network),
            served,
            None if cache is None else _keep(config, cache),
            rewrites,
        )


def check_options(product: Product, trt: ModuleType, options: BuildOptions) -> None:
    """Refuse what a product does not have, before it has been asked for anything.

    Raises:
        UsageError: An option or a target that it does not have.
        BackendMissingError: It wants a GPU for this, and there is none.
    """
    for option in options.options:
        if option not in product.options:
            offered = ", ".join(product.options)
            raise UsageError(
                f"{product.name} builds no {option} engines; it has {offered}", where="--engine-options"
            )
    if "strip" in options.options and "refit" not in options.options:
        raise UsageError(
            "strip leaves the weights out, and without refit nothing puts them into the engine again",
            where="--engine-options",
            hint="--engine-options refit,strip",
        )
    if {"version-compatible", "refit"} <= set(options.options):
        raise UsageError(
            "what runs a version-compatible engine in other versions, its lean runtime, refits none",
            where="--engine-options",
            hint="--engine-options refit, and an engine for each version",
        )
    if options.reproducible and not product.ahead_of_time:
        raise UsageError(
            f"{product.name} chooses by measuring, so that it hardly builds the same engine twice",
            where="--reproducible",
            hint="--to tensorrt-rtx builds without measuring",
        )
    known = targets(trt)
    unknown = [target for target in options.targets if target not in known]
    if product.ahead_of_time and unknown:
        raise UsageError(
            f"{product.name} {product.version} does not build for {', '.join(unknown)}; it has {', '.join(known)}",
            where="--target",
        )
    if not product.ahead_of_time:
        if options.targets:
            raise UsageError(
                f"{product.name} builds for the GPU at hand alone, and takes no --target",
                where="--target",
                hint="--to tensorrt-rtx builds for others",
            )
        need_driver(product, "build engines")
    elif options.options:
        need_driver(product, f"build {' and '.join(options.options)} engines")
    asked_targets(product, options.targets, options.options, known)


def _configure(trt: ModuleType, builder: Any, options: BuildOptions, chosen: Sequence[str]) -> Any:
    """The builder's settings."""
    config = builder.create_builder_config()
    flags = trt.BuilderFlag
    # TF32 is on by default, and would make fp32 less exact.
    (config.set_flag if options.tf32 else config.clear_flag)(flags.TF32)
    if chosen:
        config.num_compute_capabilities = len(chosen)
        for index, target in enumerate(chosen):
            capability = getattr(trt.ComputeCapability, target.replace("sm_", "SM"))
            config.set_compute_capability(capability, index)
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if "version-compatible" in options.options:
        config.set_flag(flags.VERSION_COMPATIBLE)
    if "hardware-compatible" in options.options:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if "refit" in options.options:
        config.set_flag(flags.REFIT)
    if "strip" in options.options:
        config.set_flag(flags.STRIP_PLAN)
    return config


def _serialized(trt: ModuleType, builder: Any, network: Any, config: Any) -> Any:
    """The engine's bytes, `None` where it cannot be built: one that can be a CUDA graph, if the network can.

    TensorRT for RTX else takes memory while an engine runs, where its tensors are large, which no capture survives.
    """
    flags = trt.BuilderFlag
    if not hasattr(flags, "REQUIRE_USER_ALLOCATION"):
        return builder.build_serialized_network(network, config)
    config.set_flag(flags.REQUIRE_USER_ALLOCATION)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None and "REQUIRE_USER_ALLOCATION" in log(trt).said():
        config.clear_flag(flags.REQUIRE_USER_ALLOCATION)
        with log(trt).listening():  # What it said of the flag is no cause any more.
            serialized = builder.build_serialized_network(network, config)
    return serialized


def _add_profiles(builder: Any, config: Any, profiles: Sequence[Profile], where: str) -> None:
    for profile in profiles:
        made = builder.create_optimization_profile()
        for name, shapes in profile.items():
            made.set_shape(name, shapes.min, shapes.opt, shapes.max)
        if config.add_optimization_profile(made) < 0:
            listed = ", ".join(f"{name} {shapes}" for name, shapes in profile.items())
            raise GantkError(f"the profile {listed} does not suit `{where}`", where=where)


def _made(thing: Any, what: str, heard: Log, where: str) -> Any:
    if thing is None:
        raise GantkError(f"the library does not make {what}: {heard.said()}", where=where)
    return thing


def _failure(
    product: Product, precision: str, chosen: Sequence[str], where: str, said: str, rewrites: Sequence[str]
) -> GantkError:
    hint = WITHOUT if rewrites else None
    if "workspace limit" in said:
        hint = "give it more with --workspace MIB"
    elif is_shortage(said) and not product.ahead_of_time:
        said = f"{said}; of the GPU's memory {Cuda(cuda.bindings()).memory()}"
        hint = "end what else uses the GPU, or let it use less with --workspace MIB"
    elif is_shortage(said):
        hint = "smaller shapes, with --opt and --max, take less memory"
    elif "deconv" in said and precision == "bf16":
        hint = "bf16 transposed convolutions do not build, those of a fp16 file do: gantk export RUN --precision fp16"
    return GantkError(
        f"{product.name} {product.version} cannot build `{where}` in {precision} for {', '.join(chosen)}: {said}",
        where=where,
        hint=hint,
    )


def _give_timing_cache(config: Any, product: Product, where: str) -> Path | None:
    """Let the builder begin with what earlier builds measured, so that rebuilds choose alike.

    Returns:
        The file of that; `None` for a user without a home.
    """
    try:
        folder = cache_folder() / "timing"
    except GantkError:
        return None
    path = folder / f"{product.name}-{product.version}-{driver.targets_here()[0]}.cache"
    known = b""
    with suppress(GantkError):
        known = read_bytes(path)
    cache = config.create_timing_cache(known)
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        if not known:
            raise GantkError("the library takes no timing cache", where=where)
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    return path


def _keep(config: Any, path: Path) -> str | None:
    """Write what was measured to the user's cache; its hash, or `None` where that cannot be written."""
    data = bytes(config.get_timing_cache().serialize())
    try:
        write_bytes(path, data)
    except GantkError:
        return None  # The next build measures again; this one took minutes.
    return hashlib.sha256(data).hexdigest()

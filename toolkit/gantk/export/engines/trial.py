# SPDX-License-Identifier: Apache-2.0
"""The first run of an engine: where it was built, before it is in a bundle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from gantk.bundle import Bundle, Engine
from gantk.errors import GantkError
from gantk.runtime import cuda, driver
from gantk.runtime.backends.tensorrt import EngineRunner
from gantk.runtime.cuda import Cuda
from gantk.runtime.engines import EngineFile, runs_on
from gantk.runtime.products import PRODUCTS, driver_trouble, gpu_trouble, load
from gantk.runtime.verdicts import judge, wrong


def tried(bundle: Bundle, engine: Engine, where: Path, report: Callable[[str], None]) -> Engine:
    """Run an engine with its probe, if it runs on the GPU at hand.

    Args:
        bundle: That the engine is about to be a part of, with its file.
        engine: Just built.
        where: The folder that the bundle will be, for errors.
        report: Called with a line on what was found.

    Returns:
        The engine, with the verdict where that is one on all that it was built for. Of several architectures each
        has its own kernels: those that are not at hand are judged where it is first opened.

    Raises:
        GantkError: It computes something else than PyTorch.
    """
    product = PRODUCTS[engine.backend]
    if gpu_trouble(product) or driver_trouble(product) or "strip" in engine.options:
        return engine
    target = driver.targets_here()[0]
    if not runs_on(engine, target):
        return engine
    interface = bundle.manifest.interface(bundle.manifest.source(engine))
    file = EngineFile(bundle.read_file(engine.file), where / engine.file.path, engine, interface)
    try:
        with EngineRunner(load(product), product, file, Cuda(cuda.bindings())) as runner:
            verdict = judge(runner, file, bundle)
    except GantkError as error:
        report(f"  unverified: it could not be run on {target}, for {error.what}")
        return engine
    if verdict is None:
        report("  unverified: there is no probe of a shape that it serves")
        return engine
    if verdict.reason is not None:
        raise wrong(
            file, target, verdict.reason, f"leave it out, with --precision, or without {product.name}"
        )
    report(f"  verified on {target}")
    alone = engine.targets == (target,) and "hardware-compatible" not in engine.options
    return replace(engine, parity=(verdict,)) if alone else engine

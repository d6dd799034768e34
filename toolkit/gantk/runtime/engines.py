# SPDX-License-Identifier: Apache-2.0
"""Which engine of a bundle runs on a GPU, and its file, before the vendor's library sees a byte."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gantk.bundle import Bundle, Engine, Interface
from gantk.errors import GantkError
from gantk.runtime.products import PRODUCTS
from gantk.tensors import TensorSpec


@dataclass(frozen=True)
class EngineFile:
    """An engine that may be loaded: everything that can be checked without the vendor's library has been.

    Args:
        data: Its bytes.
        path: Where they came from.
        engine: What the manifest says of it.
        interface: What goes in and out.
    """

    data: bytes = field(repr=False)
    path: Path
    engine: Engine
    interface: Interface

    @property
    def where(self) -> str:
        """The file's name in errors."""
        return str(self.path)

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return self.interface.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return self.interface.outputs


def read_engine(
    bundle: Bundle, backend: str, version: str, target: str, precision: str | None, form: str | None
) -> EngineFile:
    """Choose an engine for a GPU (see `choose_engine`), and read and check its file.

    Raises:
        GantkError: There is none, its file is damaged, or a plugin library that it wants cannot be loaded.
    """
    chosen = choose_engine(bundle, backend, version, target, precision, form)
    data = bundle.read_file(chosen.file)
    # Loading a library runs what is in it: not for a file that is not the manifest's.
    for library in chosen.plugins:
        _load_plugin(library, chosen)
    return EngineFile(
        data,
        bundle.root / chosen.file.path,
        chosen,
        bundle.manifest.interface(bundle.manifest.source(chosen)),
    )


def choose_engine(
    bundle: Bundle, backend: str, version: str, target: str, precision: str | None, form: str | None
) -> Engine:
    """Choose an engine for a GPU.

    Args:
        bundle: That holds it.
        backend: ``tensorrt`` or ``tensorrt-rtx``.
        version: Of the product that is installed.
        target: The architecture of the GPU, e.g. ``sm_89``.
        precision: One of `gantk.bundle.ENGINE_PRECISIONS`; by default fp32 where the bundle has such an engine,
            tf32 where it has that alone, else what it has first.
        form: By default one with the bundle's own inputs and outputs.

    Raises:
        GantkError: There is none, or none for this GPU or version: says what there is.
    """
    manifest = bundle.manifest
    where = str(bundle.root / "manifest.json")
    engines = [e for e in manifest.engines if e.backend == backend]
    if not engines:
        others = ", ".join(sorted({e.backend for e in manifest.engines}))
        raise GantkError(
            f"`{bundle.root}` has no {backend} engine" + (f"; it has engines of {others}" if others else ""),
            where=where,
            hint=f"gantk export {bundle.root} --to {backend}",
        )
    asked = _narrowed(
        engines,
        lambda e: (
            precision in (None, e.executed)
            and (manifest.source(e).interface is None if form is None else e.form == form)
        ),
    )
    build = _build(bundle, backend, target, precision)
    if not asked:
        raise _missing(bundle, backend, f"{precision or 'plain'} {form or ''}".strip(), engines, build)
    here = _narrowed(asked, lambda e: runs_on(e, target))
    if not here:
        raise _missing(bundle, backend, f"{asked[0].executed} engine for {target}", asked, build)
    fitting = _narrowed(here, lambda e: version_fits(e, version))
    if not fitting:
        built = sorted({engine.version for engine in here})
        raise GantkError(
            f"the {backend} engines of `{bundle.root}` for {target} were built with {', '.join(built)}; "
            f"{version} is installed",
            where=where,
            hint=f", or pip install {backend}==".join([build, *built]),
        )
    whole = _narrowed(fitting, lambda e: "strip" not in e.options)
    if not whole:
        raise _stripped(bundle, fitting[0])
    return min(whole, key=lambda e: (e.precision != "fp32", e.tf32, e.version != version))


def runs_on(engine: Engine, target: str) -> bool:
    """Whether an engine was built for an architecture, e.g. ``sm_89``."""
    if "hardware-compatible" in engine.options:  # From Ampere on.
        return int(target.removeprefix("sm_")) >= 80
    return target in engine.targets


def version_fits(engine: Engine, version: str) -> bool:
    """Whether a version of its product runs an engine.

    One that was built for that runs in later versions of the same major one, and TensorRT's of 10 in 11 (its
    documentation, 11.4: "Support Matrix").
    """
    if engine.version == version:
        return True
    if "version-compatible" not in engine.options:
        return False
    built, installed = _numbers(engine.version), _numbers(version)
    next_one = engine.backend == "tensorrt" and (built[0], installed[0]) == (10, 11)
    return built <= installed and (built[0] == installed[0] or next_one)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdecimal() else 0 for part in version.split("."))


def _narrowed(engines: Sequence[Engine], fits: Callable[[Engine], bool]) -> list[Engine]:
    return [engine for engine in engines if fits(engine)]


def _build(bundle: Bundle, backend: str, target: str, precision: str | None) -> str:
    """The command that builds an engine for a GPU; not every one is among those that are built for by default."""
    named = f" --target {target}" if PRODUCTS[backend].ahead_of_time else ""
    kind = {None: "", "tf32": " --precision fp32 --tf32"}.get(precision, f" --precision {precision}")
    return f"gantk export {bundle.root} --to {backend}{named}{kind}"


def _missing(bundle: Bundle, backend: str, what: str, held: Sequence[Engine], build: str) -> GantkError:
    listed = "; ".join(
        f"{engine.executed} ({engine.form}) for {', '.join(engine.targets)}" for engine in held
    )
    return GantkError(
        f"`{bundle.root}` has no {backend} {what}; it has {listed}",
        where=str(bundle.root / "manifest.json"),
        hint=build,
    )


def _stripped(bundle: Bundle, engine: Engine) -> GantkError:
    """The error of an engine whose weights were left out: what would run computes with none."""
    put = f"put weights into it first: gantk refit {bundle.root} RUN"
    build = f"gantk export {bundle.root} --to {engine.backend} builds one with them"
    return GantkError(
        f"`{engine.file.path}` was built without its weights ({', '.join(engine.options)})",
        where=str(bundle.root / engine.file.path),
        hint=put if "refit" in engine.options else build,
    )


def _load_plugin(library: str, engine: Engine) -> None:
    """Load a plugin library by name, so that its creators are registered; from where the loader looks."""
    try:
        ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise GantkError(
            f"`{engine.file.path}` wants the plugin library {library}, which cannot be loaded: {error}",
            where=engine.file.path,
            hint=f"LD_LIBRARY_PATH names the folders where {library} is looked for",
        ) from error

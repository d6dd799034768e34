# SPDX-License-Identifier: Apache-2.0
"""Which engine of a bundle runs on a GPU, and whether it computes what it should: before and at its first opening."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from gantk.bundle import Bundle, Engine, FileRef, Interface
from gantk.errors import GantkError
from gantk.files import cache_folder, read_bytes, write_text
from gantk.runtime import parity
from gantk.runtime.products import PRODUCTS
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec

VERDICTS = "verdicts"
"""The folder in the user's cache."""

VERDICT_LIMIT_BYTES = 2**16


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
    for library in chosen.plugins:
        _load_plugin(library, chosen)
    return EngineFile(
        bundle.read_file(chosen.file),
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
        precision: One of `gantk.bundle.ENGINE_PRECISIONS`; by default fp32 where the bundle has such an engine, else
            what it has first. Of fp32 engines one that is exact comes before one of tf32.
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
            precision in (None, e.precision, e.executed)
            and (manifest.source(e).interface is None if form is None else e.form == form)
        ),
    )
    build = _build(bundle, backend, target, precision)
    if not asked:
        raise _missing(bundle, backend, f"{precision or 'plain'} {form or ''}".strip(), engines, build)
    here = _narrowed(asked, lambda e: runs_on(e, target))
    if not here:
        what = f"{precision or asked[0].executed} engine for {target}"
        raise _missing(bundle, backend, what, asked, build)
    fitting = _narrowed(here, lambda e: version_fits(e, version))
    if not fitting:
        built = ", ".join(sorted({engine.version for engine in here}))
        raise GantkError(
            f"the {backend} engines of `{bundle.root}` for {target} were built with {built}; {version} is installed",
            where=where,
            hint=f"{build}, or pip install {backend}=={built}",
        )
    whole = _narrowed(fitting, lambda e: "strip" not in e.options)
    if not whole:
        raise _stripped(bundle, fitting[0])
    return min(whole, key=lambda engine: (engine.precision != "fp32", engine.tf32))


def check_once(runner: Runner, file: EngineFile, bundle: Bundle, target: str) -> bool:
    """Compare an unverified engine with the bundle's probe, the first time that it is opened on a kind of GPU.

    The verdict by this probe is remembered in the user's cache, where that can be written.

    Args:
        runner: That runs it.
        file: The engine.
        bundle: That holds the probe.
        target: The architecture of the GPU.

    Returns:
        Whether it is verified now; not so where the probe is for other inputs or none of its shapes is served.

    Raises:
        GantkError: Its outputs are wrong, here and now or when it was opened before.
    """
    engine = file.engine
    if engine.verified:
        return True
    if bundle.manifest.probe is None:
        return False
    name = f"{engine.file.sha256}-{bundle.manifest.probe.sha256}-{engine.version}-{target}.json"
    reason = _remembered(name)
    if reason is None:
        probe = _probe(file, bundle, bundle.manifest.probe)
        if probe is None:
            return False
        reason = _judge(runner, file, bundle.manifest.family, *probe)
        with suppress(GantkError):  # Without it the next opening judges again.
            write_text(cache_folder() / VERDICTS / name, json.dumps({"passed": not reason, "reason": reason}))
    if reason:
        raise GantkError(
            f"`{file.path}` computes wrong on {target}: {reason}",
            where=str(file.path),
            hint=f"another backend may do; gantk export {bundle.root} --to {engine.backend} builds it again",
        )
    return True


def has_probe(bundle: Bundle, engine: Engine) -> bool:
    """Whether the bundle's probe has a sample by which an engine can be verified.

    Raises:
        GantkError: The probe is missing or damaged.
    """
    ref, source = bundle.manifest.probe, bundle.manifest.source(engine)
    if ref is None:
        return False
    file = EngineFile(b"", bundle.root / engine.file.path, engine, bundle.manifest.interface(source))
    return _probe(file, bundle, ref) is not None


def runs_on(engine: Engine, target: str) -> bool:
    """Whether an engine was built for an architecture, e.g. ``sm_89``."""
    if "hardware-compatible" in engine.options:  # From Ampere on.
        return int(target.removeprefix("sm_")) >= 80
    return target in engine.targets


def version_fits(engine: Engine, version: str) -> bool:
    """Whether a version of its product runs an engine."""
    if "version-compatible" in engine.options:
        return engine.version.split(".")[0] == version.split(".", maxsplit=1)[0]
    return engine.version == version


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


def _remembered(name: str) -> str | None:
    """Why an engine failed when it was opened before; empty where it passed, `None` where it was never tried."""
    try:
        verdict = json.loads(read_bytes(cache_folder() / VERDICTS / name, VERDICT_LIMIT_BYTES))
        return "" if verdict["passed"] is True else str(verdict["reason"])
    except (GantkError, ValueError, KeyError, TypeError, RecursionError):
        return None  # Whatever it is, trying again tells.


def _probe(
    file: EngineFile, bundle: Bundle, ref: FileRef
) -> tuple[dict[str, Array], dict[str, Array]] | None:
    """The probe's inputs and outputs, cut to a batch that the engine serves; `None` where they are for others."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(bundle.read_file(ref))
    except SafetensorError as error:
        raise GantkError(f"the probe cannot be read: {error}", where=ref.path) from error
    names = [f"input.{spec.name}" for spec in file.interface.inputs]
    wanted = [f"output.{spec.name}" for spec in file.interface.outputs]
    if not {*names, *wanted} <= arrays.keys():
        return None
    count = min(len(arrays[wanted[0]]) if arrays[wanted[0]].ndim else 1, 1_000_000)
    for batch in range(count, 0, -1):
        cut = {
            name: array[:batch] if array.ndim and len(array) == count else array
            for name, array in arrays.items()
        }
        for profile in file.engine.profiles:
            if all(shapes.holds(cut[f"input.{name}"].shape) for name, shapes in profile.items()):
                return (
                    {name.removeprefix("input."): cut[name] for name in names},
                    {name.removeprefix("output."): cut[name] for name in wanted},
                )
    return None


def _judge(
    runner: Runner, file: EngineFile, family: str, feeds: dict[str, Array], wanted: dict[str, Array]
) -> str:
    """Why the outputs are wrong; empty where they are right."""
    outputs = runner.run(feeds)
    threshold = parity.threshold_of(file.engine.executed, family)
    for spec in file.interface.outputs:
        reference = wanted[spec.name]
        span = parity.span_of(reference, spec.range)
        reason = parity.compare([outputs[spec.name]], [reference], span).against(threshold, span)
        if reason is not None:
            return f"{spec.name}: {reason}"
    return ""

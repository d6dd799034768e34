# SPDX-License-Identifier: Apache-2.0
"""The backends: which there are, which work here, and how a network is opened with one."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from shlex import quote
from types import ModuleType

from gantk.bundle import ENGINE_BACKENDS, ENGINE_PRECISIONS, FORMS, PRECISIONS, Bundle, is_bundle
from gantk.errors import BackendMissingError, GantkError, UsageError
from gantk.runtime.cores import core_count
from gantk.runtime.model import Model, check_choice, choose, default_precision, from_path, from_variant
from gantk.runtime.operators import INSTALL, OPERATORS
from gantk.runtime.refusals import none_left, refuse_tf32, right
from gantk.runtime.runner import Runner

DEVICES = ("cpu", "cuda")


@dataclass(frozen=True)
class BackendEntry:
    """A backend's place in the table.

    Args:
        module: The module that implements it, imported when it is chosen. It has
            ``probe() -> BackendStatus``, ``executed(precision, device, *, native) -> str | None`` (see `executed`)
            and ``open(model, device, threads) -> Runner``.
        install: The command that makes it work.
    """

    module: str
    install: str


# In the order in which `auto` tries them.
BACKENDS = {
    "onnxruntime": BackendEntry(
        "gantk.runtime.backends.onnxruntime", "pip install 'gantk[cpu]' (or 'gantk[gpu]')"
    ),
    "openvino": BackendEntry("gantk.runtime.backends.openvino", "pip install 'gantk[openvino]'"),
}
"""The backends that run ONNX files."""

ENGINE_MODULE = "gantk.runtime.backends.tensorrt"
"""Implements the backends that run engines of a bundle, by the names of `gantk.bundle.ENGINE_BACKENDS`. It has
``probe(name) -> BackendStatus`` and ``open_engine(bundle, name, precision, form) -> Runner``."""


@dataclass(frozen=True)
class BackendStatus:
    """What a backend said of itself on this machine.

    Args:
        name: The backend's name.
        version: Of the package, or `None` where it is not installed.
        devices: Where it can run here; empty where it does not work.
        reason: Why it does not work.
        hint: What to do about it.
    """

    name: str
    version: str | None
    devices: tuple[str, ...]
    reason: str | None = None
    hint: str | None = None

    @property
    def works(self) -> bool:
        return bool(self.devices)


def status(name: str) -> BackendStatus:
    """What one backend says of itself here.

    Raises:
        UsageError: There is no backend of that name.
    """
    if name in ENGINE_BACKENDS:
        return import_module(ENGINE_MODULE).probe(name)  # type: ignore[no-any-return]
    return _module(name).probe()  # type: ignore[no-any-return]


def executed(name: str, precision: str, device: str, *, native: bool = False) -> str | None:
    """What a backend computes a file in, or `None` where it cannot be.

    Args:
        name: Of the backend, in `BACKENDS`.
        precision: Of the file.
        device: Where.
        native: Whether gantk's native operators are all that is heavy in it: see `gantk.bundle.WHOLLY_NATIVE`.
    """
    return _module(name).executed(precision, device, native=native)  # type: ignore[no-any-return]


def available() -> list[BackendStatus]:
    """What every backend says of itself here."""
    return [status(name) for name in (*BACKENDS, *ENGINE_BACKENDS)]


def open(  # noqa: A001
    path: str | os.PathLike[str],
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    *,
    form: str | None = None,
    threads: int | None = None,
) -> Runner:
    """Open a bundle or a lone ONNX file, ready to run.

    Args:
        path: A bundle's folder or an ``.onnx`` file.
        backend: A name in `BACKENDS` or `gantk.bundle.ENGINE_BACKENDS`, or ``auto``: an engine of the bundle where
            one fits the GPU, else the first that works here and whose outputs were not found wrong when the
            bundle was made.
        precision: ``fp32``, ``fp16``, ``bf16``, ``int8`` or ``fp8``; by default fp32 if the bundle has it. An engine
            that is asked for by its backend's name is by default in what the bundle has such engines in. ``tf32``
            takes an engine that was built with ``--tf32``, also beside an exact one.
        device: ``cpu`` or ``cuda``; by default the best that the backend has here.
        form: ``plain`` or ``rewritten``; by default the one measured faster on that backend. Of an exported step of an
            optimisation also ``adam`` and ``targets``, which are other networks.
        threads: For one operation on a CPU; by default all cores that this process may use.

    Raises:
        GantkError: The file is missing or damaged, there is no such variant, or no backend may run it.
        UsageError: An unknown backend, precision, form or device, or a number of threads below 1.
        BackendMissingError: The backend that was asked for does not work here, or none does.
    """
    check_choice("device", device, DEVICES)
    if threads is not None and threads < 1:
        raise UsageError(f"{threads} threads; at least 1 is wanted", where="threads")
    path = Path(path)
    if backend == "auto":
        return _open_first(path, precision, device, form, threads)
    if backend in ENGINE_BACKENDS:
        return _open_engine(path, backend, precision, form, device)
    chosen = _device(status(backend), device)  # What is missing is said before any file is read.
    return open_model(_finder(path, precision, form)(backend, chosen), backend, chosen, threads)


def _open_first(
    path: Path, precision: str | None, device: str | None, form: str | None, threads: int | None
) -> Runner:
    """Open with the first backend that may run it, which knows why others before it may not (see `open`)."""
    find = _finder(path, precision, form)
    failures: dict[str, GantkError] = {}
    names = [*_engines_here(path, device), *BACKENDS]
    last: set[str] = set()
    for name in names:
        try:
            chosen = _device(status(name), device)
            if name in ENGINE_BACKENDS:
                wanted = precision or default_precision(Bundle.read(path))
                runner = _open_engine(path, name, wanted, form, device)
            else:
                model = find(name, chosen)
                # Such a file was measured against nothing: those that compute its precision themselves come first.
                if name not in last and _wants_operators(model, name, chosen):
                    last.add(name)
                    names.append(name)
                    continue
                runner = open_model(model, name, chosen, threads)
            runner.passed_over = {other: error.what for other, error in failures.items()}
            return runner
        except GantkError as error:
            failures[name] = error
    raise none_left(path, failures)


def open_model(model: Model, backend: str, device: str | None = None, threads: int | None = None) -> Runner:
    """Open one ONNX file with one backend, whatever its parity.

    Raises:
        UsageError: There is no backend of that name.
        BackendMissingError: It does not work here, or not on that device.
        GantkError: It cannot compute in the file's precision here, or refuses the file.
    """
    device = _device(status(backend), device)
    if executed(backend, model.precision, device, native=model.is_wholly_native) is None:
        raise GantkError(
            f"{backend} cannot compute {model.precision} on this machine's {device}",
            where=model.where,
            hint=_instead(model, device, backend),
        )
    return _module(backend).open(model, device, threads or core_count())  # type: ignore[no-any-return]


def _open_engine(
    path: Path, backend: str, precision: str | None, form: str | None, device: str | None
) -> Runner:
    """Open an engine of a bundle (see `open`)."""
    check_choice("precision", precision, ENGINE_PRECISIONS)
    check_choice("form", form, FORMS)
    _device(status(backend), device)
    if not is_bundle(path):
        raise GantkError(
            f"{backend} runs the engines of a bundle, and `{path}` is none",
            where=str(path),
            hint=f"gantk export {quote(str(path))} --to {backend}",
        )
    return import_module(ENGINE_MODULE).open_engine(Bundle.read(path), backend, precision, form)  # type: ignore[no-any-return]


def _engines_here(path: Path, device: str | None) -> list[str]:
    """The products of which a bundle has engines and that work here: what ``auto`` tries first."""
    if device == "cpu" or not is_bundle(path):
        return []
    held = {engine.backend for engine in Bundle.read(path).manifest.engines}
    return [name for name in ENGINE_BACKENDS if name in held and status(name).works]


def _finder(path: Path, precision: str | None, form: str | None) -> Callable[[str, str], Model]:
    """A function from a backend's name and a device to the file it should run there.

    Raises:
        GantkError: There is no such file, whatever the backend.
    """
    if precision == "tf32":
        _finder(path, "fp32", form)  # What an engine of it is built from.
        return refuse_tf32
    if not path.is_dir():
        model = from_path(path, precision, form)
        return lambda backend, device: model
    check_choice("precision", precision, PRECISIONS)
    check_choice("form", form, FORMS)
    bundle = Bundle.read(path)
    choose(bundle, precision, form, None)
    return lambda backend, device: from_variant(
        bundle, right(choose(bundle, precision, form, backend, device), backend, device, path)
    )


def _wants_operators(model: Model, name: str, device: str) -> bool:
    """Whether a backend computes a file for gantk's native operators alone."""
    return model.is_wholly_native and executed(name, model.precision, device) is None


def _entry(name: str) -> BackendEntry:
    check_choice("backend", name, (*BACKENDS, *ENGINE_BACKENDS))
    if name in ENGINE_BACKENDS:
        raise UsageError(f"{name} runs engines, not ONNX files", where="backend")
    return BACKENDS[name]


def _module(name: str) -> ModuleType:
    return import_module(_entry(name).module)


def _device(found: BackendStatus, device: str | None) -> str:
    """The device to use: the one asked for, or the backend's best here."""
    check_choice("device", device, DEVICES)
    if not found.works:
        raise BackendMissingError(
            f"{found.name} does not work here: {found.reason}",
            hint=found.hint or (BACKENDS[found.name].install if found.name in BACKENDS else "gantk doctor"),
        )
    if device is not None and device not in found.devices:
        raise BackendMissingError(
            f"{found.name} has no device {device!r} here; it has {', '.join(found.devices)}",
            hint=found.hint or "gantk doctor",
        )
    return device or found.devices[0]


def _instead(model: Model, device: str, backend: str) -> str:
    ways = [
        f"backend={name!r} can"
        for name in BACKENDS
        if device in status(name).devices
        and executed(name, model.precision, device, native=model.is_wholly_native) is not None
    ][:1]
    if model.has_native_form and backend == "onnxruntime":
        ways.append(f"it can with gantk's native operators ({INSTALL}, or {OPERATORS}=LIBRARY)")
    return "; or ".join([*ways, "use precision='fp32'"])

# SPDX-License-Identifier: Apache-2.0
"""Who takes part: every backend, precision, form and mode that works here; and who does not, and why."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from gantk.bench.contender import Contender, Lineup, Skipped, is_wanted, title_of
from gantk.bench.engines import engine_contenders
from gantk.bench.subject import File, Subject
from gantk.bundle import ENGINE_BACKENDS, place_of
from gantk.errors import BackendMissingError, UsageError
from gantk.runtime.operators import INSTALL
from gantk.runtime.registry import BACKENDS, executed, status

# The ways PyTorch runs one network. On a CPU, max-autotune has templates to choose among only for frozen weights; on a
# GPU the last two have CUDA graphs and frozen weights.
TORCH_MODES: dict[str, dict[str, tuple[str, ...]]] = {
    "torch": {"cpu": ("eager", "channels_last"), "cuda": ("eager", "channels_last")},
    "torch-compile": {
        "cpu": ("default", "freezing", "max-autotune"),
        "cuda": ("default", "reduce-overhead", "max-autotune"),
    },
}
TORCH_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
CPP = "cpp"
"""The C++ runner, which computes with `CPP_BACKEND`."""
CPP_BACKEND = "onnxruntime"
CPP_WORKER = "gantk-bench-worker"
NAMES = (*TORCH_MODES, *BACKENDS, *ENGINE_BACKENDS, CPP)
MODES = tuple(
    dict.fromkeys(mode for devices in TORCH_MODES.values() for modes in devices.values() for mode in modes)
)

_TORCH_FACTORY = "gantk.baselines.pytorch:open_network"
_FILE_FACTORY = "gantk.bench.subject:open_file"

_NOT_EXECUTED = {
    ("onnxruntime", "fp16"): "its CPU provider computes fp16 graphs in fp32, so it is no fp16 contender",
    ("onnxruntime", "bf16"): "its CPU provider has no bf16 convolutions",
    ("openvino", "fp16"): "its fp16 on CPUs was measured slower than its fp32, so gantk does not use it",
    ("openvino", "bf16"): "this CPU has no bf16 instructions",
}


def find(
    subject: Subject,
    backends: Sequence[str] | None,
    precisions: Sequence[str] | None,
    device: str,
    threads: int,
    modes: Sequence[str] | None = None,
    torch_precisions: Sequence[str] | None = None,
) -> Lineup:
    """The contenders, PyTorch's first, and who was skipped.

    Args:
        subject: What is benchmarked.
        backends: Only these, of `NAMES`; all that work by default.
        precisions: Only what computes in these; by default whatever the files hold.
        device: Where they run.
        threads: For one operation.
        modes: Only these of PyTorch's modes, as far as there are on the device; all by default.
        torch_precisions: Only these of PyTorch's precisions, of `TORCH_PRECISIONS`; all by default.

    Raises:
        BackendMissingError: A backend in `backends` does not work here.
        UsageError: PyTorch has none of `modes` on the device.
    """
    if modes:
        _check_modes(modes, device)
    contenders: list[Contender] = []
    skipped: list[Skipped] = []
    for name in backends or NAMES:
        if name in TORCH_MODES:
            found, left_out = _torch(name, subject, precisions, modes, torch_precisions, device, threads)
        elif name in ENGINE_BACKENDS:
            found, left_out = engine_contenders(name, subject, precisions, device, asked=bool(backends))
        elif name == CPP:
            found, left_out = _cpp(subject, precisions, device, threads)
        else:
            found, left_out = _backend(name, subject, precisions, device, threads)
        contenders += found
        skipped += left_out
        missing = [skip for skip in left_out if skip.missing]
        if backends and missing:
            reason = f"{name} was asked for and does not work here: {missing[0].reason}"
            raise BackendMissingError(reason, where="--backend", hint="gantk doctor")
    return contenders, skipped


def best_device(subject: Subject, backends: Sequence[str] | None) -> str:
    """``cuda`` where one of the backends, by default of all, runs what the subject holds there; else ``cpu``."""
    held = {engine.backend for engine in subject.bundle.manifest.engines} if subject.bundle else set()
    able = [name for name in backends or NAMES if name in BACKENDS or name in held]
    return "cuda" if any("cuda" in status(name).devices for name in able) else "cpu"


def check_names(what: str, names: Sequence[str] | None, known: Sequence[str]) -> None:
    """Refuse a name that is not known."""
    for name in names or ():
        if name not in known:
            raise UsageError(f"{name!r} is not a {what}; known are {', '.join(known)}", where=f"--{what}")


def has_torch() -> bool:
    return importlib.util.find_spec("torch") is not None


def compiler_fault() -> str | None:
    """Why torch.compile cannot make CPU code here, or `None`."""
    compiler = os.environ.get("CXX") or "g++"
    if shutil.which(compiler) is None:
        return f"there is no C++ compiler `{compiler}`, which torch.compile calls (apt-get install g++)"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "Python.h is missing, which torch.compile's kernels include (apt-get install python3-dev)"
    return None


def _check_modes(modes: Sequence[str], device: str) -> None:
    known = [mode for ways in TORCH_MODES.values() for mode in ways[device]]
    if not set(modes) & set(known):
        raise UsageError(
            f"PyTorch has no mode {' or '.join(modes)} on {device}; there it has {', '.join(known)}",
            where="--mode",
        )


def _torch(
    name: str,
    subject: Subject,
    precisions: Sequence[str] | None,
    modes: Sequence[str] | None,
    torch_precisions: Sequence[str] | None,
    device: str,
    threads: int,
) -> Lineup:
    if not has_torch():
        return [], [Skipped(name, "PyTorch is not installed (pip install 'gantk[train]')", missing=True)]
    if name == "torch-compile" and device == "cpu" and (fault := compiler_fault()):
        return [], [Skipped(name, fault, missing=True)]
    if subject.checkpoint_bytes is None:
        return [], [Skipped(name, "an ONNX file holds no PyTorch network")]
    wanted = [p for p in precisions or subject.precisions if p in TORCH_PRECISIONS]
    if device != "cuda":
        wanted = [precision for precision in wanted if precision != "tf32"]
    elif "fp32" in wanted and "tf32" not in wanted:  # What PyTorch computes in unless it is told not to.
        wanted.insert(wanted.index("fp32") + 1, "tf32")
    if torch_precisions and wanted and not set(wanted) & set(torch_precisions):
        reason = f"it was asked for in {', '.join(torch_precisions)} alone; it would compute in {', '.join(wanted)}"
        return [], [Skipped(name, reason)]
    options = {"path": str(subject.path), "backend": name, "device": device, "threads": threads}
    return [
        Contender(
            backend=name,
            precision=precision,
            file_precision="fp32" if precision == "tf32" else precision,
            form=None,
            mode=mode,
            artefact_bytes=subject.checkpoint_bytes,
            factory=_TORCH_FACTORY,
            options={**options, "precision": precision, "mode": mode},
            imports=("torch",),
        )
        for precision in wanted
        if torch_precisions is None or precision in torch_precisions
        for mode in TORCH_MODES[name][device]
        if modes is None or mode in modes
    ], []


def _backend(
    name: str, subject: Subject, precisions: Sequence[str] | None, device: str, threads: int
) -> Lineup:
    here = status(name)
    if not here.works:
        return [], [Skipped(name, here.reason or "it does not work here", missing=True)]
    if device not in here.devices:
        return [], [Skipped(name, f"it has no {device} here, only {', '.join(here.devices)}", missing=True)]
    contenders, skipped = [], []
    for file in subject.files_for(name, device):
        precision = executed(name, file.precision, device, native=file.is_wholly_native)
        title = title_of(name, file.precision, file.form)
        if precision is None or (precision != file.precision and precision in subject.precisions):
            if is_wanted(file.precision, precisions):
                skipped.append(Skipped(title, _not_executed(name, file, precision)))
        elif is_wanted(precision, precisions):
            failure = file.failures.get(place_of(name, device))
            if failure is None:
                contenders.append(_of_file(name, subject, file, precision, device, threads))
            else:
                skipped.append(Skipped(title, failure))
        elif is_wanted(file.precision, precisions):
            skipped.append(Skipped(title, f"here it computes that in {precision}, which was not asked for"))
    return contenders, skipped


def _not_executed(name: str, file: File, precision: str | None) -> str:
    """Why a file is no contender in its own precision, which is computed in another one or not at all."""
    reason = _NOT_EXECUTED.get((name, file.precision), f"it computes that in {precision or 'nothing'} here")
    if precision is None and file.is_wholly_native:
        reason += f", and gantk's native operators are not installed ({INSTALL})"
    return reason


def _cpp(subject: Subject, precisions: Sequence[str] | None, device: str, threads: int) -> Lineup:
    """What the Python backend of the same library would run, in a worker written in C++."""
    program = shutil.which(CPP_WORKER)
    if program is None:
        return [], [
            Skipped(CPP, f"{CPP_WORKER} is not on PATH (toolkit/cpp builds and installs it)", missing=True)
        ]
    if not subject.path.is_dir():
        return [], [Skipped(CPP, "the C++ runner opens bundles, and this is an ONNX file")]
    found, skipped = _backend(CPP_BACKEND, subject, precisions, device, threads)
    twins = [replace(contender, backend=CPP, imports=(), command=(program,)) for contender in found]
    return twins, [replace(skip, name=skip.name.replace(CPP_BACKEND, CPP)) for skip in skipped]


def _of_file(name: str, subject: Subject, file: File, precision: str, device: str, threads: int) -> Contender:
    return Contender(
        backend=name,
        precision=precision,
        file_precision=file.precision,
        form=file.form,
        mode=None,
        artefact_bytes=file.size_bytes,
        factory=_FILE_FACTORY,
        options={
            "path": str(subject.path),
            "backend": name,
            "precision": file.precision,
            "form": file.form,
            "device": device,
            "threads": threads,
        },
        imports=(name, BACKENDS[name].module),
    )

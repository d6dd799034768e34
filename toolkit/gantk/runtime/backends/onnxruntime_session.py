# SPDX-License-Identifier: Apache-2.0
"""Inference sessions of ONNX Runtime, on any of its providers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.errors import BackendMissingError
from gantk.runtime.backends.vendor import check_interface, vendor_errors
from gantk.runtime.model import Model
from gantk.runtime.operators import INSTALL, OPERATORS, native_operators
from gantk.tensors import TensorSpec

if TYPE_CHECKING:
    import onnxruntime

NAME = "onnxruntime"
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

CPU_ONLY = "gantk.cpu_only"
"""The library's setting that keeps what it has for CPUs alone out of a session for a GPU."""

# Official builds from 1.29 on tell Microsoft what is run, with an identifier of the machine and hashes of the model, as
# their Privacy.md says. That is for users to decide; the variable is read when the library is loaded.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

# ONNX Runtime's threads wait for more work in a loop that keeps a core busy, by default for some 40 ms after each run,
# and whatever the program does next on few cores takes up to twice as long. So many microseconds do for the gaps
# within a run and between calls (benchmarks/waiting_threads.py). Releases that do not know the setting ignore it.
WAIT, WAIT_US = "session.intra_op.spin_duration_us", 200

_NUMPY_NAMES = {"float": "float32", "double": "float64"}


def executed(precision: str, device: str, *, native: bool = False) -> str | None:
    """What a file of a precision is computed in: the CPU provider casts fp16 to fp32 and has no bf16.

    fp8 has no kernels: values are rounded to it, and computed with in fp32. Gantk's native operators have bf16.

    Args:
        precision: Of the file.
        device: Where.
        native: Whether these operators are all that is heavy in it.
    """
    if precision == "fp8":
        return "fp32"
    if device == "cuda":
        return precision
    if precision == "bf16":
        return precision if native and native_operators(device) is not None else None
    return {"fp32": "fp32", "fp16": "fp32", "int8": "int8"}.get(precision)


def facts(model: Model, device: str) -> dict[str, Any]:
    """What a runner says of itself."""
    import onnxruntime

    return {
        "backend": NAME,
        "version": onnxruntime.__version__,
        "device": device,
        "precision": executed(model.precision, device, native=model.is_wholly_native) or model.precision,
        "file_precision": model.precision,
    }


def session_options(
    model: Model, device: str, threads: int, operators: Path | None
) -> onnxruntime.SessionOptions:
    """What a session is told whatever its provider.

    Raises:
        GantkError: The library of native operators cannot be loaded.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    if operators is not None:
        if device == "cuda":
            options.add_session_config_entry(CPU_ONLY, "0")
        register(options, operators)
    options.intra_op_num_threads = threads
    options.add_session_config_entry(WAIT, str(WAIT_US))
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # A pattern is one more block for all tensors of a run, beside those that the arena had given to the first run.
    options.enable_mem_pattern = False
    options.log_severity_level = 4  # Errors come as exceptions.
    if model.precision == "fp8":
        # Further optimisations take fp8 for uint8: they drop ReLUs before a rounding, and fuse layers into int8 ones.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return options


def make_session(
    model: Model,
    options: onnxruntime.SessionOptions,
    provider: str,
    settings: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """Load a file with one of `PROVIDERS`, and see that it is what the model says.

    Raises:
        BackendMissingError: The provider does not start.
        GantkError: The library refuses the file, or its inputs and outputs are others.
    """
    import onnxruntime

    source = str(model.path) if model.external else model.data
    with vendor_errors(f"ONNX Runtime cannot load `{model.where}`", model.where):
        session = onnxruntime.InferenceSession(source, options, providers=[(provider, dict(settings or {}))])
    session.disable_fallback()
    # A provider that does not start is replaced by the CPU's with no more than a warning.
    if session.get_providers()[0] != provider:
        raise BackendMissingError(
            f"onnxruntime cannot use {provider} here; it fell back to {session.get_providers()[0]}",
            hint="pip install 'onnxruntime-gpu[cuda,cudnn]'; device='cpu' works without",
        )
    check_interface(model, _tensors(session.get_inputs()), _tensors(session.get_outputs()))
    return session


def register(options: Any, operators: Path) -> None:
    """Let sessions use a library of native operators.

    Raises:
        GantkError: It cannot be loaded.
    """
    hint = f"build them again ({INSTALL}), or do without: {OPERATORS}="
    with vendor_errors(f"ONNX Runtime cannot load the operators of `{operators}`", str(operators), hint):
        options.register_custom_ops_library(str(operators))


def obstacle_to_binding(
    session: onnxruntime.InferenceSession, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]
) -> str | None:
    """Why a session cannot be bound to memory on the GPU; `None` where it can be."""
    told = {side for spec in inputs for side in spec.shape if isinstance(side, str)}
    if any(isinstance(side, str) and side not in told for spec in outputs for side in spec.shape):
        return "the sizes of the outputs are told by a run alone, so their memory cannot be given"
    # What an operator wants in main memory, as Clip its limits, is copied when it is bound, and a graph keeps what it
    # was then.
    places = zip(session.get_inputs(), session.get_input_memory_infos(), strict=True)
    here = [repr(node.name) for node, memory in places if memory.name == "Cpu"]
    if here:
        return (
            f"ONNX Runtime wants {', '.join(here)} in main memory, so it cannot be bound to memory on the GPU"
        )
    return None


def _tensors(arguments: list[Any]) -> dict[str, str]:
    """Name to dtype; ONNX Runtime calls float32 ``tensor(float)``."""
    types = {argument.name: argument.type.removeprefix("tensor(").removesuffix(")") for argument in arguments}
    return {name: _NUMPY_NAMES.get(kind, kind) for name, kind in types.items()}

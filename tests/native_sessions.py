# SPDX-License-Identifier: Apache-2.0
"""Sessions of ONNX Runtime with the library of native operators, or without."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

onnxruntime = pytest.importorskip("onnxruntime")


def load(
    model: bytes,
    library: Path | None,
    threads: int = 1,
    optimised: Path | None = None,
    settings: Mapping[str, str] | None = None,
    initializers: Mapping[str, Any] | None = None,
) -> Any:
    """A session on the CPU.

    Args:
        model: An ONNX file.
        library: Of native operators; without it functions have their bodies.
        threads: For one operation.
        optimised: Where to write the graph that is left after optimisation.
        settings: Entries of the session's configuration, made before the library is registered.
        initializers: In the place of the file's own, in memory that is the caller's.
    """
    options = onnxruntime.SessionOptions()
    for name, value in (settings or {}).items():
        options.add_session_config_entry(name, value)
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    if optimised is not None:
        options.optimized_model_filepath = str(optimised)
    for name, value in (initializers or {}).items():
        options.add_initializer(name, value)
    if library is not None:
        options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

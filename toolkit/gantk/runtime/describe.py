# SPDX-License-Identifier: Apache-2.0
"""What a bundle, an ONNX file or a run is, as plain data."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

from gantk.bundle import Bundle, FileRef, Variant, is_bundle
from gantk.errors import GantkError
from gantk.files import read_bytes
from gantk.runtime.model import ONNX_LIMIT_BYTES, from_bytes

RUN_LIMIT_BYTES = 16 * 2**20


def describe(path: str | Path) -> dict[str, Any]:
    """Everything that can be said of what lies at `path`.

    Returns:
        A JSON object whose ``kind`` is ``bundle``, ``onnx`` or ``run``. Every file of a bundle is read and
        checked; ``damaged`` lists those that are not what the manifest says, ``unused`` what earlier writings left.

    Raises:
        GantkError: There is nothing there that gantk knows, or it cannot be read.
    """
    path = Path(path)
    if (path / "run.json").is_file() and not is_bundle(path):
        return _run(path)
    if path.is_dir():
        return _bundle(Bundle.read(path))
    return _onnx(path)


def _bundle(bundle: Bundle) -> dict[str, Any]:
    manifest = bundle.manifest
    verdicts = {ref.path: _verdict(bundle, ref) for ref in manifest.files}
    return {
        "kind": "bundle",
        "path": str(bundle.root),
        "model": {"family": manifest.family, "name": manifest.name, "config": manifest.config},
        "created": manifest.created,
        "inputs": [spec.to_json() for spec in manifest.inputs],
        "outputs": [spec.to_json() for spec in manifest.outputs],
        "variants": [_variant(variant, verdicts[variant.file.path]) for variant in manifest.variants],
        "engines": [
            {**engine.to_json(), "damage": verdicts[engine.file.path]} for engine in manifest.engines
        ],
        "files": [{**ref.to_json(), "damage": verdicts[ref.path]} for ref in manifest.files],
        "unused": [
            {"path": path.relative_to(bundle.root).as_posix(), "size_bytes": path.stat().st_size}
            for path in bundle.unused_files()
        ],
        "damaged": [path for path, verdict in verdicts.items() if verdict is not None],
        "tools": manifest.tools,
    }


def _variant(variant: Variant, damage: str | None) -> dict[str, Any]:
    return {**variant.to_json(), "damage": damage}


def _verdict(bundle: Bundle, ref: FileRef) -> str | None:
    """What is wrong with a file, or `None`."""
    try:
        bundle.read_file(ref)
    except GantkError as error:
        return error.what
    return None


def _onnx(path: Path) -> dict[str, Any]:
    import onnx

    data = read_bytes(path, ONNX_LIMIT_BYTES)
    model = from_bytes(data, path)
    proto = onnx.load_from_string(data)
    operators = Counter(node.op_type for node in proto.graph.node)
    return {
        "kind": "onnx",
        "path": str(path),
        "model": {"name": model.name, "config": model.config},
        "inputs": [spec.to_json() for spec in model.inputs],
        "outputs": [spec.to_json() for spec in model.outputs],
        "precision": model.precision,
        "form": model.form,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "external_weights": model.external,
        "ir_version": proto.ir_version,
        "opsets": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        "producer": f"{proto.producer_name} {proto.producer_version}".strip(),
        "operators": dict(operators.most_common()),
        "metadata": {entry.key: entry.value for entry in proto.metadata_props},
    }


def _run(path: Path) -> dict[str, Any]:
    try:
        resolved = json.loads(read_bytes(path / "run.json", RUN_LIMIT_BYTES))
    except (ValueError, RecursionError) as error:
        raise GantkError(
            f"`{path / 'run.json'}` is not JSON: {error}", where=str(path / "run.json")
        ) from error
    checkpoints = sorted((path / "checkpoints").glob("*.safetensors"))
    return {
        "kind": "run",
        "path": str(path),
        "run": resolved,
        "checkpoints": [{"path": str(file), "size_bytes": file.stat().st_size} for file in checkpoints],
        "samples": [str(file) for file in sorted((path / "samples").glob("*"))],
    }

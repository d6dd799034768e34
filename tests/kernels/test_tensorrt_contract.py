# SPDX-License-Identifier: Apache-2.0
"""The plugins before TensorRT's own Python code, which checks signatures and computes with symbolic sizes.

The bindings come from their wheel (``tensorrt_cu13_bindings``); the libraries that they load are replaced by ones that
do nothing, so that no GPU and none of TensorRT's gigabytes are wanted.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("cuda.bindings.nvrtc", reason="NVRTC is not installed: pip install gantk[kernels]")

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = "GANTK_TENSORRT_BINDINGS"  # Further places where a wheel of the bindings is unpacked.
FUNCTIONS = {
    "nvinfer": (
        "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
        "getBuilderPluginRegistry", "getPluginRegistry",
    ),
    "nvinfer_plugin": ("initLibNvInferPlugins",),
    "nvonnxparser": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
}  # fmt: skip


def bindings() -> list[Path]:
    folders = [
        Path(name) / "tensorrt_bindings" for name in os.environ.get(FOLDERS, "").split(os.pathsep) if name
    ]
    found = find_spec("tensorrt_bindings")
    if found is not None and found.submodule_search_locations:
        folders += [Path(place) for place in found.submodule_search_locations]
    return [folder for folder in folders if (folder / "tensorrt.so").is_file()]


@pytest.fixture(params=bindings() or [None], ids=lambda folder: version_of(folder) if folder else "none")
def found(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    if request.param is None:
        pytest.skip(f"TensorRT's bindings are missing: pip install tensorrt_cu13_bindings, or set {FOLDERS}")
    if shutil.which("cc") is None:
        pytest.skip("cc is missing: apt install gcc")
    folder: Path = request.param
    (tmp_path / "tensorrt").symlink_to(folder)
    for library, functions in FUNCTIONS.items():
        text = "\n".join(f"void* {name}(void) {{ return 0; }}" for name in functions)
        target = tmp_path / f"lib{library}.so.{version_of(folder).split('.')[0]}"
        subprocess.run(
            ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", target], input=text, text=True, check=True
        )
    script = Path(__file__).with_name("tensorrt_bindings_trial.py")
    paths = (tmp_path, ROOT / "toolkit")
    environment = {
        **os.environ,
        "LD_LIBRARY_PATH": str(tmp_path),
        "PYTHONPATH": os.pathsep.join(map(str, paths)),
    }
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def version_of(folder: Path) -> str:
    match = re.search(r'^__version__ = "([\d.]+)"', (folder / "__init__.py").read_text(), re.MULTILINE)
    assert match is not None
    return match[1]


def test_tensorrt_takes_the_plugins(found: dict[str, Any]) -> None:
    """70 channels are 2 rows of tiles, 3 tiles; 960 places in 3 slices are 320 each, in steps of 32."""
    partial = found["GramPartial"]
    assert partial["types"] == ["FLOAT"] and partial["shapes"] == [[2, 3, 3, 64, 64]]
    assert partial["combinations"] == [[["FLOAT", "FLOAT"], [1, 2]]]
    assert partial["launch"] == {"grid_x": 9, "grid_y": 2, "block_x": 128, "shared_mem": 2 * 64 * 128 * 2}
    assert partial["integers"] == [70, 960, 320, 3]
    reduced = found["GramReduce"]
    assert reduced["types"] == ["FLOAT"] and reduced["shapes"] == [[2, 70, 70]]
    assert reduced["launch"] == {"grid_x": 3 * 32, "grid_y": 2, "block_x": 256, "shared_mem": 0}
    assert reduced["integers"] == [70, 960, 3]
    # 3 x 64 halves are 24 packs of 16 bytes, one block across; 48 rows are 10 bands of 5.
    variation = found["VariationPartial"]
    assert variation["types"] == ["FLOAT", "HALF"] and variation["shapes"] == [[2, 10], [2, 3, 48, 64]]
    assert variation["launch"] == {"grid_x": 10, "grid_y": 2, "block_x": 128, "shared_mem": 0}
    assert variation["integers"] == [3, 48, 64, 5]
    finish = found["VariationFinish"]
    assert finish["shapes"] == [[2]] and finish["integers"] == [12]
    assert finish["launch"] == {"grid_x": 1, "grid_y": 2, "block_x": 128, "shared_mem": 0}
    for name, one in found.items():
        assert one["entry"], f"{name}: {one['kernel']} is not in its PTX"
        assert one["attributes"] == ["settings"]

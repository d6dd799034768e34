# SPDX-License-Identifier: Apache-2.0
"""The package of the native operators, as pip builds it."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from gantk.runtime.operators import OPERATORS, PACKAGE
from native_build import ROOT, onnxruntime_wheel

pytest.importorskip("onnxruntime")

IN_GANTK = """
import sys
import numpy, gantk

with gantk.open(sys.argv[1], "onnxruntime", device="cpu") as runner:
    made = runner.run({"features": numpy.arange(12, dtype="float32").reshape(1, 2, 2, 3)})
print(runner.operators, made["gram"].ravel().tolist())
"""
ANYWHERE = """
import sys
import numpy, onnxruntime, gantk_onnxruntime

options = onnxruntime.SessionOptions()
options.register_custom_ops_library(gantk_onnxruntime.get_library_path())
session = onnxruntime.InferenceSession(sys.argv[1], options)
(gram,) = session.run(None, {"features": numpy.arange(12, dtype="float32").reshape(1, 2, 2, 3)})
print(gantk_onnxruntime.get_library_path(), gram.ravel().tolist())
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package alone."""
    folder = tmp_path_factory.mktemp("package")
    with zipfile.ZipFile(onnxruntime_wheel(folder)) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_one_wheel_serves_every_python(site: Path) -> None:
    assert {path.name for path in (site / PACKAGE).iterdir()} == {
        "__init__.py", "_built.py", "py.typed", "libgantk_onnxruntime.so"
    }  # fmt: skip
    (about,) = site.glob("*.dist-info/WHEEL")
    tags = [line for line in about.read_text().splitlines() if line.startswith("Tag:")]
    assert tags
    assert all(tag.startswith("Tag: py3-none-linux_") for tag in tags)
    assert 'DEVICES: tuple[str, ...] = ("cpu",)\n' in (site / PACKAGE / "_built.py").read_text()


def test_it_brings_its_licence(site: Path) -> None:
    (licence,) = site.glob("*.dist-info/licenses/LICENSE")
    assert licence.read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("program", [IN_GANTK, ANYWHERE], ids=["gantk", "anywhere"])
def test_it_is_used_where_it_is_installed(site: Path, tmp_path: Path, program: str) -> None:
    """By a file that has no bodies to fall back on."""
    node = helper.make_node("GramMatrix", ["features"], ["gram"], domain="gantk", scale=1.0)
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, 2, 2, 3])
    gram = helper.make_tensor_value_info("gram", TensorProto.FLOAT, [1, 2, 2])
    imports = [helper.make_opsetid("", 20), helper.make_opsetid("gantk", 1)]
    graph = helper.make_graph([node], "g", [features], [gram])
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=10), tmp_path / "gram.onnx")
    environment = {name: value for name, value in os.environ.items() if name != OPERATORS}
    environment["PYTHONPATH"] = os.pathsep.join((str(site), str(ROOT / "toolkit")))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "gram.onnx")],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    path, _, values = done.stdout.strip().partition(" ")
    assert path == str(site / PACKAGE / "libgantk_onnxruntime.so")
    assert values == "[55.0, 145.0, 145.0, 451.0]"

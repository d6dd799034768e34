# SPDX-License-Identifier: Apache-2.0
"""What importing costs, and what must import without torch."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gantk

TORCH_FREE = (
    "errors",
    "files",
    "options",
    "tensors",
    "bundle",
    "runtime",
    "kernels",
    "bench",
    "stylize",
    "generate",
)
OPTIONAL = ("torch", "lightning_fabric", "onnxscript", "tensorboard", "av")


def modules(*packages: str) -> list[str]:
    found = [info.name for info in pkgutil.walk_packages(gantk.__path__, "gantk.")]
    return [name for name in found if name.split(".")[1] in packages]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def imported(module: str) -> set[str]:
    """What importing a module adds to a bare interpreter."""
    code = f"import sys; bare = set(sys.modules); import {module}; print(*(set(sys.modules) - bare))"
    return set(python(code).split())


def test_importing_gantk_imports_nothing_heavy() -> None:
    added = imported("gantk")
    assert not {name.partition(".")[0] for name in added} - {"gantk", *sys.stdlib_module_names}
    assert not [name for name in added if name.startswith("gantk.")]


def test_every_name_of_gantk_resolves() -> None:
    assert sorted(gantk.__all__) == dir(gantk)
    assert all(getattr(gantk, name) is not None for name in gantk.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Bundel'"):
        gantk.Bundel  # noqa: B018


@pytest.mark.parametrize("package", TORCH_FREE)
def test_modules_import_without_torch(package: str) -> None:
    names = modules(package)
    assert names
    python(
        f"import sys, importlib\n"
        f"for name in {OPTIONAL!r}: sys.modules[name] = None\n"
        f"for name in {names!r}: importlib.import_module(name)"
    )


def test_bundles_are_read_with_the_standard_library_alone() -> None:
    tops = {name.partition(".")[0] for name in imported("gantk.bundle")}
    assert not tops - {"gantk", *sys.stdlib_module_names}


def test_the_kernels_import_with_numpy_alone() -> None:
    python(
        "import sys\n"
        "class Only:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] not in {'gantk', 'numpy', *sys.stdlib_module_names}:\n"
        "            raise ImportError(f'{name} is not installed')\n"
        "sys.meta_path.insert(0, Only())\n"
        "import gantk.kernels, gantk.kernels.pycuda, gantk.kernels.status\n"
        "assert not gantk.kernels.status.examine()['works']\n"
        "try: gantk.kernels.gram_matrix(object())\n"
        "except gantk.GantkError as error: assert 'GPU memory is wanted' in str(error)\n"
        "else: raise AssertionError"
    )


def test_operators_look_for_the_kernels_when_a_cuda_tensor_comes() -> None:
    code = "import sys, torch; bare = set(sys.modules); import gantk.ops; print(*(set(sys.modules) - bare))"
    added = set(python(code).split())
    assert "gantk.kernels.operations" in added
    assert not {name for name in added if name.partition(".")[0] in ("cuda", "pycuda")}


def test_a_bundle_runs_without_torch(tmp_path: Path) -> None:
    import networks

    networks.bundle(tmp_path / "x.gantk")
    code = (
        f"import sys; sys.modules.update({{name: None for name in {OPTIONAL!r}}})\n"
        "import gantk, numpy\n"
        f"runner = gantk.open({str(tmp_path / 'x.gantk')!r})\n"
        "print(runner.run({'latent': numpy.ones((2, 4), 'float32')})['picture'].shape)\n"
        "from gantk.cli.main import main\n"
        f"assert main(['generate', {str(tmp_path / 'x.gantk')!r}, '-o', {str(tmp_path / 'g.png')!r}]) == 0\n"
        "assert main(['doctor']) == 0"
    )
    assert python(code).startswith("(2, 3, 8, 8)")


def test_help_imports_no_verb_and_nothing_heavy() -> None:
    code = (
        "import sys\nfrom gantk.cli.main import main\nmain(['--help'])\nprint('LOADED', *sorted(sys.modules))"
    )
    loaded = set(python(code).partition("LOADED")[2].split())
    assert not loaded & {
        "numpy",
        "torch",
        "onnx",
        "onnxruntime",
        "openvino",
        "PIL",
        "matplotlib",
        "safetensors",
    }
    assert {name for name in loaded if name.startswith("gantk.cli.")} == {
        "gantk.cli.main",
        "gantk.cli.termination",
        "gantk.cli.watchdog",
    }

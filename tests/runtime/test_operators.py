# SPDX-License-Identifier: Apache-2.0
"""Where the library of native operators is looked for."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gantk.bench import case
from gantk.bench.contender import Contender
from gantk.errors import GantkError
from gantk.runtime.backends.onnxruntime import examine_operators
from gantk.runtime.operators import INSTALL, OPERATORS, PACKAGE, has_native_operators, native_operators

Install = Callable[[str], Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package with a library in the way of imports, and returns the library's path."""

    def put(source: str) -> Path:
        folder = tmp_path / "site" / PACKAGE
        folder.mkdir(parents=True)
        (folder / "operators.so").touch()
        (folder / "__init__.py").write_text(source.format(library=str(folder / "operators.so")))
        return folder / "operators.so"

    monkeypatch.delenv(OPERATORS, raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, PACKAGE, raising=False)
    yield put
    sys.modules.pop(PACKAGE, None)


WHOLE = "DEVICES = ('cpu',)\ndef get_library_path(): return {library!r}\n"


def test_what_is_installed_is_found_for_the_devices_that_it_was_built_for(install: Install) -> None:
    library = install(WHOLE)
    assert native_operators("cpu") == library
    assert native_operators("cuda") is None
    assert (has_native_operators("cpu"), has_native_operators("cuda")) == (True, False)


def test_the_variable_has_precedence(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(WHOLE)
    monkeypatch.setenv(OPERATORS, "")
    assert native_operators("cpu") is None
    assert not has_native_operators("cpu")
    own = tmp_path / "own.so"
    monkeypatch.setenv(OPERATORS, str(own))
    with pytest.raises(GantkError, match=r"own.so`, the library of native operators, does not exist"):
        native_operators("cpu")
    assert has_native_operators("cpu"), "so that opening says what is wrong"
    own.touch()
    assert native_operators("cpu") == native_operators("cuda") == own


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("DEVICES = ('cpu',)\n", "has no attribute 'get_library_path'"),
        ("from gantk_onnxruntime._built import DEVICES\n", "No module named 'gantk_onnxruntime._built'"),
        (
            "DEVICES = ('cpu',)\ndef get_library_path(): return {library!r} + '.2'\n",
            "operators.so.2` does not exist",
        ),
    ],
)
def test_an_incomplete_package_is_an_error_that_says_so(install: Install, source: str, reason: str) -> None:
    install(source)
    with pytest.raises(GantkError, match="the package gantk-onnxruntime is incomplete") as caught:
        native_operators("cpu")
    assert reason in caught.value.what
    assert INSTALL in (caught.value.hint or "")
    found = examine_operators()
    assert (found["library"], found["reason"], found["hint"]) == (
        PACKAGE,
        caught.value.what,
        caught.value.hint,
    )


def test_a_worker_in_cpp_is_told_of_the_library(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It knows no packages, and computes with the same operators as its twin in Python."""
    given: dict[tuple[str, ...], Any] = {}
    monkeypatch.setattr(
        case,
        "Worker",
        lambda label, folder, threads, environment, command: given.update({command: environment}),
    )
    library = install(WHOLE)
    for command in (("gantk-bench-worker",), ()):
        contender = Contender("cpp", "fp32", "fp32", "plain", None, 1, "", {"device": "cpu"}, command=command)
        task: Any = SimpleNamespace(folder=tmp_path)
        case._start(task, contender, 1)
    found = {command: environment.get(OPERATORS) for command, environment in given.items()}
    assert found == {("gantk-bench-worker",): str(library), (): None}

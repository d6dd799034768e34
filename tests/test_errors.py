# SPDX-License-Identifier: Apache-2.0
"""The form of errors, and the exit statuses that they stand for."""

from gantk.errors import BackendMissingError, GantkError, UsageError


def test_the_form() -> None:
    error = GantkError("`x` has 3; 4 is wanted", where="x.gantk/manifest.json", hint="gantk export")
    assert str(error) == "`x` has 3; 4 is wanted\n  in: x.gantk/manifest.json\n  hint: gantk export"
    assert str(GantkError("alone")) == "alone"
    assert error.to_json() == {
        "error": "`x` has 3; 4 is wanted",
        "where": "x.gantk/manifest.json",
        "hint": "gantk export",
    }


def test_exit_statuses() -> None:
    assert [kind.exit_code for kind in (GantkError, UsageError, BackendMissingError)] == [1, 2, 3]
    assert issubclass(UsageError, GantkError)
    assert issubclass(BackendMissingError, GantkError)

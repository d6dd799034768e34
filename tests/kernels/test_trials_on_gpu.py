# SPDX-License-Identifier: Apache-2.0
"""The trials of every unit on a GPU, by its own code: what the interpreter runs here, and what is too large for it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gram_trials
import hardware
import instance_norm_trials
import numpy as np
import pytest
import variation_trials
from ptx.cutting import H100
from variation_trials import Trial

from gantk.kernels.variation_plan import KINDS
from gantk.runtime.driver import probe

no_gpu = pytest.mark.skipif(not probe().works, reason=f"no GPU here: {probe().reason}")
MODULES = [importlib.import_module(path.stem) for path in sorted(Path(__file__).parent.glob("*_trials.py"))]


def trials() -> list[Any]:
    """Every case of every `*_trials.py`."""
    found = []
    for module in MODULES:
        for unit in getattr(module, "UNITS", [module.__name__.removesuffix("_trials")]):
            for index, case in enumerate(module.cases(unit)):
                label, call = case if isinstance(case, tuple) else (f"case {index}", case)
                found.append(pytest.param(unit, call, id=f"{unit}: {label}"))
    return found


def put_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials of one module may be run by another."""
    own = [module for module in MODULES if hasattr(module, "Memory")]
    assert {"gram_trials", "variation_trials"} <= {module.__name__ for module in own}
    monkeypatch.setattr(gram_trials, "guard_bits", lambda: H100)  # Tensor cores cut sums off.
    for module in own:
        monkeypatch.setattr(module, "Memory", hardware.Memory)
        monkeypatch.setattr(module, "run", hardware.run)


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize(("unit", "case"), trials())
def test_a_case_of_the_interpreter(
    unit: str, case: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    if unit.endswith("sm90") and hardware.gpu(0).device.compute_capability != (9, 0):
        pytest.skip("its code is for sm_90a alone")
    put_on_gpu(monkeypatch)
    case()


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("dtype", variation_trials.TYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_large_variations_again_and_again(
    kind: str, dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With hundreds of blocks at once, of which any may be the last; the same bits every time, in one launch or two."""
    put_on_gpu(monkeypatch)
    trial = Trial((2, 3, 350, 504), kind, dtype, layout, multiprocessors=132)
    variation_trials.check(trial)
    pixels = variation_trials.picture(trial)
    first = variation_trials.execute(trial, pixels)
    for counters in (True, False) * 4:
        again = variation_trials.execute(Trial(**{**vars(trial), "counters": counters}), pixels)
        for one, two in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, two)


@pytest.mark.gpu
@no_gpu
@pytest.mark.parametrize("lingers", [False, True], ids=["", "lingering"])
@pytest.mark.parametrize("shape", [(1, 256, 256, 32), (2, 64, 64, 128), (1, 512, 384, 64)], ids=str)
def test_norms_that_come_early_have_the_bits_of_those_in_turn(
    shape: tuple[int, int, int, int], lingers: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pixels are read before the launches before have ended."""
    here = hardware.gpu(0)
    if not here.launches_early:
        pytest.skip("this GPU, or its driver, has no programmatic dependent launches")
    if lingers:
        hardware.linger(monkeypatch)
    put_on_gpu(monkeypatch)
    trial = instance_norm_trials.Trial(shape, others=(0, 0), multiprocessors=here.device.multiprocessors)
    numbers = instance_norm_trials.numbers_of(trial)
    with monkeypatch.context() as patch:
        patch.setitem(here.__dict__, "launches_early", False)
        wanted = instance_norm_trials.execute(trial, numbers)
    for _ in range(20):
        np.testing.assert_array_equal(instance_norm_trials.execute(trial, numbers), wanted)


def test_the_stand_in_for_hardware_is_understood(interpreted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all this, what can run here: on a fake driver that interprets the kernels."""
    interpreted()
    put_on_gpu(monkeypatch)
    variation_trials.check(Trial((1, 2, 9, 24), "l1"))
    variation_trials.check(Trial((1, 2, 5, 7), "l2", "float16", "sliced", offset=2))
    dict(gram_trials.cases("gram"))[str(((9, 30),))]()


def test_writing_beside_an_array_is_seen(interpreted: Any) -> None:
    interpreted()
    memory = hardware.Memory()
    at = memory.put(np.arange(5, dtype=np.float32), offset=4)
    assert at % 256 == 4
    np.testing.assert_array_equal(memory.get(at), np.arange(5))
    assert not memory.written(memory.empty((2, 3), np.float32)).any()
    memory.check_guards()
    with hardware.gpu(0).current():
        hardware.call("cuMemsetD32Async", at + 20, 0, 1, 0)
    with pytest.raises(AssertionError, match="4 bytes beside an array"):
        memory.check_guards()

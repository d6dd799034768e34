# SPDX-License-Identifier: Apache-2.0
"""Launches that may come before those before them have ended: they wait before they touch what those write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import gram_gradient_trials
import gram_trials
import instance_norm_trials
import interpreted
import pytest
import variation_trials
from interpreted import KERNELS, Fault, sources
from judged import TRIALS

from gantk.kernels.launch import Launch

pytestmark = TRIALS

HOPPER = "sm_90a"
Seen = list[Launch]

Gram, Gradient = gram_trials.Trial, gram_gradient_trials.Trial
Norm, Variation = instance_norm_trials.Trial, variation_trials.Trial
# By the kernels that depend on those before them.
CASES: dict[str, Callable[[], object]] = {
    "gram_reduce": partial(gram_trials.check, Gram(((24, 70),), arch=HOPPER)),
    "gram_finish": partial(gram_trials.check, Gram(((20, 70), (3, 20)), arch=HOPPER, style=True)),
    "gram_gradient_tf32": partial(
        gram_gradient_trials.check, Gradient(((24, 70),), precision="tf32", arch=HOPPER)
    ),
    "gram_gradient_simt": partial(
        gram_gradient_trials.check, Gradient(((24, 70),), layout="strided", arch=HOPPER)
    ),
    "variation_finish": partial(
        variation_trials.check, Variation((1, 3, 20, 8), arch=HOPPER, counters=False, multiprocessors=4)
    ),
    "instance_norm_finish": partial(instance_norm_trials.check, Norm((2, 6, 5, 3), arch=HOPPER)),
    "instance_norm_apply": partial(
        instance_norm_trials.check, Norm((1, 6, 5, 16), others=(1, 1), arch=HOPPER)
    ),
}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Seen:
    launches: Seen = []
    monkeypatch.setattr(interpreted, "observe", lambda launch, arch: launches.append(launch))
    return launches


@pytest.mark.parametrize("kernel", CASES)
def test_it_waits(kernel: str, seen: Seen) -> None:
    CASES[kernel]()
    assert kernel in " ".join(launch.kernel for launch in seen if launch.dependent)
    assert not seen[0].dependent  # It comes when all of others is over.


@pytest.mark.parametrize("kernel", CASES)
def test_a_kernel_that_does_not_wait_is_found(kernel: str, tmp_path: Path) -> None:
    shutil.copytree(KERNELS / "cuda", tmp_path / "cuda")
    shutil.copytree(KERNELS / "include", tmp_path / "include")
    primitives = tmp_path / "cuda" / "primitives.cuh"
    before = primitives.read_text()
    primitives.write_text(before.replace('asm volatile("griddepcontrol.wait;" ::: "memory");', ""))
    assert primitives.read_text() != before
    with sources(tmp_path), pytest.raises(Fault, match=r"before `griddepcontrol.wait`|no thread waits"):
        CASES[kernel]()

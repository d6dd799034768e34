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
def test_it_may_linger(kernel: str) -> None:
    """As tests on a GPU have it."""
    with sources(KERNELS, ("-DGANTK_LINGER_NS=1000",)):
        CASES[kernel]()


@pytest.mark.parametrize("kernel", CASES)
def test_a_kernel_that_does_not_wait_is_found(kernel: str, tmp_path: Path) -> None:
    change(tmp_path, "primitives.cuh", 'asm volatile("griddepcontrol.wait;" ::: "memory");', "")
    with sources(tmp_path), pytest.raises(Fault, match=r"before `griddepcontrol.wait`|no thread waits"):
        CASES[kernel]()


def test_what_is_written_meanwhile_is_not_read_as_constant(tmp_path: Path) -> None:
    """Also after the wait: such a load is of what nobody writes while the launch is there."""
    change(tmp_path, "variation_sum.cuh", "__ldcg", "__ldg")
    with sources(tmp_path), pytest.raises(Fault, match=r"ld\.global\.nc of what an earlier launch writes"):
        CASES["variation_finish"]()


def change(folder: Path, name: str, before: str, after: str) -> None:
    """Copy the kernels there, one of their files changed."""
    shutil.copytree(KERNELS / "cuda", folder / "cuda")
    shutil.copytree(KERNELS / "include", folder / "include")
    text = (folder / "cuda" / name).read_text()
    assert before in text
    (folder / "cuda" / name).write_text(text.replace(before, after))

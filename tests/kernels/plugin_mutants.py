# SPDX-License-Identifier: Apache-2.0
"""The mutation campaign for `kernels/cuda/*_plugin.cuh`, which no unit includes: against the plugins' own tests.

    python tests/kernels/plugin_mutants.py

Verdicts are those of `mutants.py`, and go to the same `mutants.json`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import interpreted
import test_tensorrt_plugins as plugins
from mutants import attempt, copied, file_digest, judge_all, load, tell
from mutation import Mutant, mutants_of

from gantk.errors import GantkError
from gantk.export.functions import KINDS
from gantk.kernels import tensorrt_source
from gantk.kernels.sources import read_sources

FILES = tuple(sorted((interpreted.KERNELS / "cuda").glob("*_plugin.cuh")))
CASES: dict[str, Callable[[], None]] = {
    "a scale": plugins.test_a_scale_is_compiled_in,
    **{
        f"gram {dtype} {channels}": lambda given=(dtype, "exact", channels, 1e-6, 0): plugins.test_gram(*given)
        for dtype, channels in (("float16", 64), ("float16", 129), ("float32", 70), ("bfloat16", 130))
    },
    **{
        f"variation {kind} {dtype} {width}": lambda given=(kind, dtype, width): plugins.test_total_variation(*given)
        for kind, dtype in zip(KINDS, plugins.TYPES, strict=True)
        for width in (64, "W")
    },
}  # fmt: skip


@contextmanager
def compiled_from(folder: Path) -> Iterator[dict[str, str]]:
    """Within: plugins are compiled from these sources; yields their PTX by their text, as they come."""
    made: dict[str, str] = {}
    given = read_sources(folder)
    before = tensorrt_source.sources, tensorrt_source.compile_unit

    def compile_unit(unit: str, target: Any, own: Any) -> bytes:
        found = before[1](unit, target, own)
        made[own.units[unit]] = found.decode()
        return found

    tensorrt_source.sources, tensorrt_source.compile_unit = lambda: given, compile_unit  # type: ignore[assignment]
    tensorrt_source._ptx.cache_clear()
    try:
        yield made
    finally:
        tensorrt_source.sources, tensorrt_source.compile_unit = before
        tensorrt_source._ptx.cache_clear()


def judge(mutant: Mutant, true_ptx: dict[str, str]) -> dict[str, Any]:
    """The verdict on a mutant, and what killed it; `true_ptx` is what `compiled_from` the true sources yielded."""
    with copied(interpreted.KERNELS) as copy:
        target = copy / "cuda" / mutant.file
        target.write_text(mutant.apply(target.read_text()))
        changed = False
        with compiled_from(copy) as made:
            for name, run in CASES.items():
                try:
                    found = attempt(name, run)
                except GantkError as error:
                    return {"verdict": "compile", "by": str(error)[:160]}
                if found:
                    return found
                changed |= any(ptx != true_ptx[text] for text, ptx in made.items())
        return {"verdict": "survived" if changed else "same"}


def main() -> None:
    interpreted.BUDGET = 2_000_000
    with compiled_from(interpreted.KERNELS) as true_ptx:
        for run in CASES.values():
            run()
    mutants = [mutant for file in FILES for mutant in mutants_of(file)]
    digests = {file.name: file_digest(file) for file in FILES}
    tell(judge_all(mutants, digests, lambda mutant: judge(mutant, true_ptx), load()))


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: Apache-2.0
"""The mutation campaign: every mechanical mutant of the kernels, against short interpreted cases.

    python tests/kernels/mutants.py [--unit NAME] [--file REGEX] [--sample N --seed S]

Verdicts go to `mutants.json` beside this file and are kept: a run goes on where the last one stopped, and does again
what was found for another text of the file. A mutant is judged by those cases of `mutant_cases.py` alone that run a
kernel whose PTX it changes:

    same        the PTX of all kernels is as before: not a mutant at all
    compile     it does not compile
    unreached   it changes a kernel that no case runs
    fault, value, error, endless     killed: by a check of the interpreter, a wrong result, an exception, a budget
    survived
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import interpreted
from mutant_cases import FAMILIES, cases_of
from mutation import Mutant, closure, mutants_of
from ptx import BudgetExceeded, Fault

from gantk.errors import GantkError

HERE = Path(__file__).parent
RESULTS = HERE / "mutants.json"
KILLED = ("fault", "value", "error", "endless")
ALIVE = ("same", "unreached", "survived")  # each says more than the ones before
Kernel = tuple[str, str, str]  # unit, architecture, name
Options = tuple[str, ...]
LEVELS: tuple[Options, ...] = (interpreted.QUICK, ())


@dataclass
class Case:
    name: str
    run: Callable[[], None]
    kernels: set[Kernel] = field(default_factory=set)
    seconds: float = 0
    instructions: int = 0


@dataclass
class Unit:
    """A family of kernels with its cases."""

    name: str
    cases: list[Case]
    root: Path = field(default_factory=lambda: interpreted.KERNELS)
    levels: tuple[Options, ...] = LEVELS
    _texts: dict[tuple[str, str, int, Options], dict[str, str]] = field(default_factory=dict)

    def measure(self) -> None:
        """Run every case on the true sources: note which kernels it runs, and how long it takes.

        Code compiled in a hurry keeps accumulators of wgmma where they may not be touched; then it is not used.
        """
        for case in self.cases:
            before = time.process_time()
            with _observed(case.kernels):
                case.run()
            case.seconds = time.process_time() - before
        self.cases.sort(key=lambda case: case.seconds)
        with interpreted.sources(self.root, LEVELS[0]):
            if any(attempt(case.name, case.run) for case in self.cases):
                self.levels = ((),)

    def sources(self) -> list[tuple[str, str]]:
        """Source files with the architectures that their kernels are run for: sm_80 first, where most is to be seen."""
        pairs = {(unit, arch) for case in self.cases for unit, arch, _ in case.kernels}
        return sorted(pairs, key=lambda pair: (pair[0], abs(int(re.sub(r"\D", "", pair[1])) - 80)))

    def texts(self, source: str, arch: str, part: int, options: Options) -> dict[str, str]:
        """PTX of the true kernels of one of the `parts` of a source, or last of the whole, compiled when asked for."""
        key = (source, arch, part, options)
        if key not in self._texts:
            with copied(self.root) as copy, interpreted.sources(copy, options):
                file = copy / "cuda" / f"{source}.cu"
                file.write_text([*parts(file.read_text()), file.read_text()][part])
                self._texts[key] = kernel_texts(source, arch)
        return self._texts[key]

    def files(self, source: str = "") -> list[Path]:
        """The CUDA files that its sources, or one of them, are made of: where mutants are made."""
        folders = (self.root / "cuda", self.root / "include")
        found: list[Path] = []
        for unit in [source] if source else dict.fromkeys(unit for unit, _ in self.sources()):
            found += [f for f in closure(folders[0] / f"{unit}.cu", folders) if f not in found]
        return [f for f in found if "cuda" in f.parts]


def parts(source: str) -> list[str]:
    """A `.cu` file's text with one of its instantiations alone, for each; with fewer than two, the text itself.

    Compiling is most of a verdict's cost, and most mutants die of the first kernel that they are in.
    """
    alone = list(interpreted.instantiations(source).values())
    return alone if len(alone) > 1 else [source]


@contextmanager
def copied(root: Path) -> Iterator[Path]:
    """A copy of the kernels' sources, to be altered."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "kernels"
        for each in ("cuda", "include"):
            shutil.copytree(root / each, copy / each)
        yield copy


def kernel_texts(unit: str, arch: str) -> dict[str, str]:
    """PTX of each kernel of a unit, without the compiler's numbering of labels and its hints to ptxas."""
    entries = interpreted.compile_ptx(unit, arch).entries
    noise = re.compile(r"(?<=\$L__BB)\d+|\.minnctapersm[^\n]*")
    return {name: noise.sub("", entries.text(name)) for name in entries}


@contextmanager
def _observed(kernels: set[Kernel]) -> Iterator[None]:
    before = interpreted.observe
    interpreted.observe = lambda launch, arch: kernels.add((launch.unit, arch, launch.kernel))
    try:
        yield
    finally:
        interpreted.observe = before


def units(names: Sequence[str] = ()) -> list[Unit]:
    """The families of `mutant_cases`, all or some, with their cases."""
    chosen = [name for name in FAMILIES if not names or name in names]
    return [Unit(name, [Case(label, run) for label, run in cases_of(name)]) for name in chosen]


def judge(mutant: Mutant, units_: Sequence[Unit]) -> dict[str, Any]:
    """The verdict on a mutant, and what killed it.

    Code that is compiled in a hurry means the same, so most mutants die of it in half the time; what survives is
    compiled as it should be, which also tells what is no mutant.
    """
    with copied(interpreted.KERNELS) as copy:
        target = copy / "cuda" / mutant.file
        target.write_text(mutant.apply(target.read_text()))
        verdict = {"verdict": "same"}
        passed: set[str] = set()
        concerned = [unit for unit in units_ if any(file.name == mutant.file for file in unit.files())]
        for options in LEVELS:
            with interpreted.sources(copy, options):
                verdict = _judge_at(mutant, concerned, options, copy, passed)
            if verdict["verdict"] not in ("survived", "unreached"):
                break
        return verdict


def _judge_at(
    mutant: Mutant, units_: Sequence[Unit], options: Options, copy: Path, passed: set[str]
) -> dict[str, Any]:
    """The verdict at one level; cases that `passed` once are not run again, at no level."""
    verdict = "same"
    again = options == LEVELS[-1] and all(LEVELS[0] in unit.levels for unit in units_)
    for unit in units_:
        if options not in unit.levels:
            verdict = "survived"  # so far
            continue
        for source, arch in unit.sources():
            if any(file.name == mutant.file for file in unit.files(source)):
                found = _judge_source(unit, source, arch, options, copy / "cuda" / f"{source}.cu", passed)
                if found["verdict"] not in ALIVE:
                    return found
                verdict = max(verdict, found["verdict"], key=ALIVE.index)
                if again and verdict == "survived":
                    return found  # All cases have passed; that it is a mutant was the question.
    return {"verdict": verdict}


def _judge_source(
    unit: Unit, source: str, arch: str, options: Options, file: Path, passed: set[str]
) -> dict[str, Any]:
    """The verdict of the cases of a unit that run kernels of one source, whose altered copy is `file`."""
    verdict = "same"
    whole = file.read_text()
    left: set[str] = set()  # cases that run more than one instantiation
    for part, text in enumerate([*parts(whole), whole]):
        if part and text is whole and not left:
            break
        file.write_text(text)
        interpreted.forget()
        before = unit.texts(source, arch, part, options)
        try:
            after = kernel_texts(source, arch)
        except interpreted.CompileError as error:
            return {"verdict": "compile", "by": _first_error(str(error))}
        changed = {(source, arch, kernel) for kernel in before if after.get(kernel) != before[kernel]}
        if changed:
            verdict = max(verdict, "unreached", key=ALIVE.index)
        for case in unit.cases:
            if not case.kernels & changed:
                continue
            verdict = "survived"
            if case.name in passed:
                continue
            if not {kernel for *at, kernel in case.kernels if at == [source, arch]} <= before.keys():
                left.add(case.name)
                continue
            found = attempt(case.name, case.run)
            if found:
                return found
            passed.add(case.name)
    file.write_text(whole)
    interpreted.forget()
    return {"verdict": verdict}


def attempt(name: str, run: Callable[[], object]) -> dict[str, Any] | None:
    """The verdict of one case, by its name, or `None` where it passes."""
    try:
        run()
    except BudgetExceeded:
        return {"verdict": "endless", "by": name}
    except Fault as fault:
        return {"verdict": "fault", "by": f"{name}: {str(fault).split(' | ')[0]}"[:160]}
    except AssertionError:
        return {"verdict": "value", "by": name}
    except GantkError:
        raise  # It was not the kernel that failed, but what compiles it.
    except Exception as error:  # whatever a broken kernel leads to, it was noticed
        return {"verdict": "error", "by": f"{name}: {error!r}"[:160]}
    return None


def _first_error(log: str) -> str:
    return next((line.split("error:")[-1].strip() for line in log.splitlines() if "error" in line), "")[:100]


def load() -> dict[str, Any]:
    if RESULTS.exists():
        found: dict[str, Any] = json.loads(RESULTS.read_text())
        return found
    return {}


def save(results: dict[str, Any]) -> None:
    """A line a mutant, so that a change of one is one."""
    lines = [f"{json.dumps(name)}: {json.dumps(results[name], sort_keys=True)}" for name in sorted(results)]
    part = RESULTS.with_suffix(".part")
    part.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    part.replace(RESULTS)


def file_digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def all_mutants(units_: Sequence[Unit]) -> list[Mutant]:
    files = sorted({file for unit in units_ for file in unit.files()})
    return [mutant for file in files for mutant in mutants_of(file)]


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """A few of the mutants, the same for the same seed and sources."""
    return random.Random(seed).sample(mutants, min(count, len(mutants)))


def summary(results: dict[str, Any]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for each in results.values():
        counts[each["verdict"]] = counts.get(each["verdict"], 0) + 1
    return counts


def campaign(
    names: Sequence[str], files: str, count: int | None, seed: int, keep: bool = True
) -> dict[str, Any]:
    """Judge mutants of some units and files (all by default), or a sample; returns the verdicts on them."""
    chosen = units(names)
    for unit in chosen:
        unit.measure()
    interpreted.BUDGET = 2_000_000
    everything = all_mutants(chosen)
    mutants = [mutant for mutant in everything if re.match(files, mutant.file)]
    if count is not None:
        mutants = sample(mutants, count, seed)
    digests = {file.name: file_digest(file) for unit in chosen for file in unit.files()}
    names_now = {mutant.name for mutant in everything}
    results = {
        name: found
        for name, found in (load() if keep else {}).items()
        if name in names_now or found["file"] not in digests  # the rest is of lines that are no more
    }
    return judge_all(mutants, digests, lambda mutant: judge(mutant, chosen), results, keep)


def judge_all(
    mutants: Sequence[Mutant],
    digests: dict[str, str],
    judge_one: Callable[[Mutant], dict[str, Any]],
    results: dict[str, Any],
    keep: bool = True,
) -> dict[str, Any]:
    """Judge those mutants of which `results` has no verdict for the text of their file, and add what is found."""
    for mutant in mutants:
        old = results.get(mutant.name)
        if old and old["source"] == digests[mutant.file]:
            continue
        record = {"file": mutant.file, "line": mutant.line, "before": mutant.before, "after": mutant.after,
                  "source": digests[mutant.file], **judge_one(mutant)}  # fmt: skip
        if old and "explanation" in old and record["verdict"] in ("survived", "unreached"):
            record["explanation"] = old["explanation"]
        results[mutant.name] = record
        print(f"{mutant.file}:{mutant.line} {mutant.before!r} -> {mutant.after!r}: {record['verdict']} "
              f"{record.get('by', '')}", flush=True)  # fmt: skip
        if keep:
            save(results)
    return {mutant.name: results[mutant.name] for mutant in mutants}


def tell(results: dict[str, Any]) -> None:
    counts = summary(results)
    killed = sum(counts.get(verdict, 0) for verdict in KILLED)
    judged = killed + counts.get("survived", 0) + counts.get("unreached", 0)
    print(f"{counts}: {killed} of {judged} killed")


def main() -> None:
    options = argparse.ArgumentParser(
        description="Mutants of the CUDA sources against the interpreted cases."
    )
    options.add_argument(
        "--unit", action="append", default=[], help="only this unit's cases (may be repeated)"
    )
    options.add_argument("--file", default="", help="only files whose names match this regular expression")
    options.add_argument("--sample", type=int, help="only so many mutants, chosen by --seed")
    options.add_argument("--seed", type=int, default=0)
    given = options.parse_args()
    tell(campaign(given.unit, given.file, given.sample, given.seed))


if __name__ == "__main__":
    main()

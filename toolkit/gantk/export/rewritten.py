# SPDX-License-Identifier: Apache-2.0
"""Which rewrites make a graph's files faster here, tried and measured for each backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gantk.bundle import WHOLLY_NATIVE, Parity, Variant, place_of
from gantk.errors import GantkError
from gantk.export import verify
from gantk.export.engines.progress import Report
from gantk.export.original import Checks, Original, VariantFile, verified_file
from gantk.export.reference import Feeds
from gantk.export.rewrites import LAYOUTS, NATIVE, ONLY_IN, ONLY_ON, STEPS, rewrite
from gantk.export.speed import PAYS, speedup
from gantk.runtime.backends.onnxruntime_session import NAME as ONNXRUNTIME
from gantk.runtime.operators import native_operators
from gantk.runtime.registry import status


def with_rewritten(
    original: Original, plain: VariantFile, checks: Checks, timed: Sequence[Feeds], report: Report
) -> list[VariantFile]:
    """The plain file, and for each backend the rewritten one that is fastest on its device here, if one is.

    Beside one with native operators stands the same without, for where their library is not. A backend that has no
    kernels for the precision itself takes the one of native operators alone.

    Args:
        original: What files are made of.
        plain: Its plain file.
        checks: That rewritten files are to pass; one that does not is done without.
        timed: The inputs that are timed: see `gantk.export.speed.speedup`.
        report: Called with a line for each rewrite that was measured.
    """
    trials = _Trials(original, checks, tuple(timed), report, {(): plain})
    able = [b for b in verify.measurable_backends(checks.precision) if _failed_on(plain.variant, b) is None]
    choices = {place_of(backend, status(backend).devices[0]): trials.choose(backend) for backend in able}
    native = [b for b in verify.native_backends(checks.precision) if trials.runs_natively(b)]
    for backend in native:
        choices[place_of(backend, status(backend).devices[0])] = _Choice((WHOLLY_NATIVE,), (), {})
    if not any(choice.fastest for choice in choices.values()):
        return [plain]
    files = []
    forms = [choice.fastest for choice in choices.values()] + [choice.portable for choice in choices.values()]
    for names in dict.fromkeys([(), *forms]):
        file = trials.file(names)
        if file is None:
            continue
        places = {where: c for where, c in choices.items() if names in c.forms}
        gains = {
            where: {name: choice.gains[name] for name in names}
            for where, choice in places.items()
            if names and choice.gains
        }
        files.append(replace(file, variant=replace(file.variant, fastest_on=tuple(places), gains=gains)))
    return files


@dataclass(frozen=True)
class _Choice:
    """What is fastest on a backend.

    Args:
        fastest: The names of the rewrites, in order.
        portable: Of what is fastest without native operators.
        gains: How many times as fast each made it; nothing where there was nothing to measure it by.
    """

    fastest: tuple[str, ...]
    portable: tuple[str, ...]
    gains: dict[str, float]

    @property
    def forms(self) -> tuple[tuple[str, ...], ...]:
        """Both; without the portable one where nothing but the fastest runs at all."""
        return (self.fastest, self.portable) if self.gains or not self.fastest else (self.fastest,)


@dataclass(frozen=True)
class _Trials:
    """The forms of a graph in one precision that were tried, whichever backend asked for them first.

    Args:
        original: What they are made of.
        checks: That they are to pass.
        timed: The inputs that are timed.
        report: Called with a line.
        made: The verified file of each, by the names of its rewrites; `None` where there can be none.
    """

    original: Original
    checks: Checks
    timed: tuple[Feeds, ...]
    report: Report
    made: dict[tuple[str, ...], VariantFile | None]

    def choose(self, backend: str) -> _Choice:
        """The rewrites that pay on a backend, with how many times as fast each makes it."""
        kept: dict[str, float] = {}
        for step in STEPS:
            # A later step may have what an earlier one has kept.
            gains = {
                name: self._gain(tuple(kept), (*kept, name), backend) for name in step if name not in kept
            }
            # Among equals the first, which is the simpler.
            best = max(gains, key=lambda name: gains[name], default=None)
            if best is not None and gains[best] >= PAYS:
                kept[best] = round(gains[best], 3)
        if LAYOUTS & kept.keys():
            kept = self._looked_at_again(kept, backend)
        fastest, portable = tuple(kept), tuple(name for name in kept if name not in NATIVE)
        whole = (WHOLLY_NATIVE,)
        gain = self._gain(fastest, whole, backend)
        if gain >= PAYS:
            over_plain = self._gain((), whole, backend) if fastest else gain
            kept[WHOLLY_NATIVE] = round(over_plain, 3)
            fastest = whole
        return _Choice(fastest, portable, kept)

    def _looked_at_again(self, kept: dict[str, float], backend: str) -> dict[str, float]:
        """What is kept where each may give way to an alternative: a layout that came later changed what they cost."""
        for step in STEPS:
            held = next((name for name in step if name in kept), None)
            if held is None or held in LAYOUTS:
                continue
            for other in [name for name in step if name not in kept]:
                names = tuple(other if name == held else name for name in kept)
                gain = self._gain(tuple(kept), names, backend)
                if gain >= PAYS:
                    gained = {**kept, other: round(kept[held] * gain, 3)}
                    kept, held = {name: gained[name] for name in names}, other
        return kept

    def runs_natively(self, backend: str) -> bool:
        """Whether a backend that has no kernels for the precision computes the network with native operators alone.

        There is nothing there to measure it against.
        """
        if not self._may_gain(WHOLLY_NATIVE, backend):
            return False
        file = self.file((WHOLLY_NATIVE,))
        if file is None:
            return False
        failed = _failed_on(file.variant, backend)
        if failed is not None:
            self.report(f"  {self.checks.precision}: {WHOLLY_NATIVE} is left out, for {failed.reason}")
            return False
        self.report(f"  {self.checks.precision} on {backend}: {WHOLLY_NATIVE} makes it run")
        return True

    def _gain(self, before: tuple[str, ...], names: tuple[str, ...], backend: str) -> float:
        """How many times as fast `names`, of which one is new, make it as `before`.

        0 where they cannot be had, or nothing can be told.
        """
        (new,) = set(names) - set(before)
        if not self._may_gain(new, backend):
            return 0.0
        best, tried = self.file(before), self.file(names)
        if best is None or tried is None or _failed_on(tried.variant, backend) is not None:
            return 0.0
        gain = speedup(best.data, tried.data, backend, self.timed)
        if gain is None:
            return 0.0
        than = "" if names[:-1] == before else f" as with {', '.join(before)}"
        if len(names) == len(before):
            (old,) = set(before) - set(names)
            than = f" as {old}"
        self.report(
            f"  {tried.variant.precision} on {backend}: {new} makes it {gain:.2f} times as fast{than}"
        )
        return gain

    def file(self, names: tuple[str, ...]) -> VariantFile | None:
        """The verified file with these rewrites; `None` where there can be none."""
        if names not in self.made:
            self.made[names] = self._make(names)
        return self.made[names]

    def _may_gain(self, name: str, backend: str) -> bool:
        """Whether there is anything to gain by a rewrite in this precision on a backend."""
        if self.checks.precision not in ONLY_IN.get(name, (self.checks.precision,)):
            return False
        device = status(backend).devices[0]
        if ONLY_ON.get(name, device) != device:
            return False
        if name in NATIVE:
            return backend == ONNXRUNTIME and native_operators(device) is not None
        return True

    def _make(self, names: tuple[str, ...]) -> VariantFile | None:
        """The verified file of a rewritten graph, or `None` where a rewrite finds nothing to do.

        Where the plain file has passed the gate by a hair a rewritten one may not: then it is done without.
        """
        graph = rewrite(self.original.graph, names)
        if graph is None:
            return None
        try:
            file = verified_file(self.original, graph, self.checks, "rewritten")
        except GantkError as error:
            self.report(f"  {self.checks.precision}: {names[-1]} is left out, for {error.what}")
            return None
        return replace(file, variant=replace(file.variant, rewrites=names))


def _failed_on(variant: Variant, backend: str) -> Parity | None:
    """The verdict that forbids a file where the backend runs here."""
    return variant.failed_on(backend, status(backend).devices[0])

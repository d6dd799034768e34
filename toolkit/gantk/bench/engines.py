# SPDX-License-Identifier: Apache-2.0
"""The engines of a bundle as contenders: which of them run here, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from shlex import quote

from gantk.bench.contender import Contender, Lineup, Skipped, is_wanted, title_of
from gantk.bench.subject import Subject
from gantk.bench.vendor_tool import VendorTool
from gantk.bundle import Bundle, Engine
from gantk.errors import GantkError
from gantk.runtime import driver
from gantk.runtime.engines import choose_engine
from gantk.runtime.products import PRODUCTS
from gantk.runtime.registry import ENGINE_MODULE, status

_FACTORY = "gantk.bench.subject:open_engine"


def engine_contenders(
    name: str, subject: Subject, precisions: Sequence[str] | None, device: str, *, asked: bool
) -> Lineup:
    """The engines of a product, as `gantk.open` takes them here.

    Args:
        name: Of the product.
        subject: What is benchmarked.
        precisions: See `gantk.bench.contenders.find`.
        device: Where they run.
        asked: Whether the product was asked for: nobody else is told that there is no engine of it.
    """
    bundle = subject.bundle
    if bundle is None or all(engine.backend != name for engine in bundle.manifest.engines):
        reason = f"there is no engine of it (gantk export {quote(str(subject.path))} --to {name})"
        return [], [Skipped(name, reason)] if asked else []
    here = status(name)
    if not here.works:
        return [], [Skipped(name, here.reason or "it does not work here", missing=True)]
    if device not in here.devices:
        return [], [Skipped(name, "its engines run on a GPU: --device cuda", missing=True)]
    engines, missing = _engines_here(bundle, name)
    skipped = [
        Skipped(title, reason) for title, reason in missing.items() if is_wanted(title.split()[1], precisions)
    ]
    contenders = []
    for engine in engines:
        contender = _of_engine(name, subject, engine)
        if is_wanted(contender.precision, precisions):
            contenders.append(contender)
        elif is_wanted(engine.precision, precisions):
            reason = f"here it computes that in {contender.precision}, which was not asked for"
            skipped.append(Skipped(f"{name} {engine.precision}", reason))
    return contenders, skipped


def _engines_here(bundle: Bundle, backend: str) -> tuple[list[Engine], dict[str, str]]:
    """Of each precision, tf32 among them, and form the engine that `gantk.open` takes here.

    Args:
        bundle: That holds them.
        backend: A product that works here.

    Returns:
        The engines; and for what there is none that runs here, by name, why.
    """
    version, target = PRODUCTS[backend].version, driver.targets_here()[0]
    assert version is not None
    manifest = bundle.manifest
    found: list[Engine] = []
    missing: dict[str, str] = {}
    held = [e for e in manifest.engines if e.backend == backend and manifest.source(e).interface is None]
    for precision, form in dict.fromkeys((engine.executed, engine.form) for engine in held):
        try:
            engine = choose_engine(bundle, backend, version, target, precision, form)
            if engine not in found:  # A tf32 engine stands in for an fp32 one that does not run here.
                found.append(engine)
        except GantkError as error:
            missing[title_of(backend, precision, form)] = error.what
    return found, missing


def _of_engine(name: str, subject: Subject, engine: Engine) -> Contender:
    return Contender(
        backend=name,
        precision=engine.executed,
        file_precision=engine.precision,
        form=engine.form,
        mode=None,
        artefact_bytes=engine.file.size_bytes,
        factory=_FACTORY,
        options={
            "path": str(subject.path),
            "backend": name,
            "precision": engine.executed,
            "form": engine.form,
        },
        imports=(PRODUCTS[name].module, ENGINE_MODULE),
        tool=VendorTool(subject.path / engine.file.path, engine, subject.inputs),
    )

# SPDX-License-Identifier: Apache-2.0
"""Engines of a bundle's variants: built, audited, and added to it all at once or not at all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gantk.bundle import (
    ENGINE_OPTIONS,
    PRECISIONS,
    Bundle,
    Engine,
    Interface,
    Manifest,
    Profile,
    Variant,
    Writer,
)
from gantk.errors import UsageError
from gantk.export.engines.apart import build_apart
from gantk.export.engines.build import BuildOptions, check_options
from gantk.export.engines.cells import adapt, asked_targets, choose_targets, missed_targets, refuse_here
from gantk.export.engines.maker import Sources
from gantk.export.engines.probe import with_probe
from gantk.export.engines.profiles import make_profiles
from gantk.export.engines.progress import Progress, Report
from gantk.export.engines.trial import tried
from gantk.runtime.following import follows
from gantk.runtime.model import check_choice
from gantk.runtime.onnx_file import refuse_external
from gantk.runtime.products import PRODUCTS, Product, gpu_trouble, load, targets

SKIPPED_FORMS = ("rewritten",)
"""Forms that were made for one backend, on its device."""


@dataclass(frozen=True)
class EngineRequest:
    """What engines are wanted.

    Args:
        products: Keys of `gantk.runtime.products.PRODUCTS`.
        precisions: Of the variants to build from; by default all that the bundle has.
        options: Of the build.
        smallest: Shapes as given with ``--min`` (see `gantk.export.engines.profiles.make_profiles`).
        usual: With ``--opt``.
        largest: With ``--max``.
    """

    products: tuple[str, ...]
    precisions: tuple[str, ...] = ()
    options: BuildOptions = field(default_factory=BuildOptions)
    smallest: tuple[str, ...] = ()
    usual: tuple[str, ...] = ()
    largest: tuple[str, ...] = ()

    def check(self) -> None:
        """Refuse what can be refused before there is anything to build.

        Raises:
            UsageError: An unknown product or precision, or an option or target that a product does not have.
            BackendMissingError: A product is not installed, or cannot build here.
        """
        for precision in self.precisions:
            check_choice("precision", precision, PRECISIONS)
        for product in self.chosen:
            trt = load(product)
            check_options(product, trt, self.options)
            for precision in self.precisions:
                executed = self.options.executed(precision)
                refuse_here(product, executed)
                known = targets(trt)
                asked = asked_targets(product, self.options.targets, self.options.options, known)
                choose_targets(product, executed, asked, known)
        if self.options.tf32 and self.precisions and "fp32" not in self.precisions:
            raise UsageError(
                f"tf32 is a way to compute fp32 engines; asked for are {', '.join(self.precisions)}",
                where="--tf32",
                hint="--precision fp32",
            )

    def check_network(
        self, network: Manifest, interfaces: Sequence[Interface], further: Sequence[str] = ()
    ) -> None:
        """Refuse shapes that do not suit a network, before minutes go into its files.

        Args:
            network: Of which files are yet to be made.
            interfaces: Of its forms.
            further: The names of inputs that a form has which is not among them, for it is not known yet.

        Raises:
            UsageError: See `gantk.export.engines.profiles.make_profiles`; or a shape is of no input.
        """
        known = dict.fromkeys([*(spec.name for one in interfaces for spec in one.inputs), *further])
        for text in (*self.smallest, *self.usual, *self.largest):
            if text.rpartition("=")[0] not in known:
                raise UsageError(
                    f"{text!r} is of no input; the inputs are {', '.join(known)}", where="--min, --opt, --max"
                )
        for interface in interfaces:
            self.profiles(network, interface)

    def profiles(self, network: Manifest, interface: Interface) -> tuple[Profile, ...]:
        """The shapes that an engine of one of a network's forms serves; the forms of a step have different inputs.

        Raises:
            UsageError: See `gantk.export.engines.profiles.make_profiles`.
        """
        names = {spec.name for spec in interface.inputs}
        given = (
            [text for text in texts if text.rpartition("=")[0] in names]
            for texts in (self.smallest, self.usual, self.largest)
        )
        return make_profiles(interface, follows(network), *given)

    def make(
        self,
        writer: Writer,
        manifest: Manifest,
        sources: Sources,
        report: Report,
        progress: Progress,
    ) -> Manifest:
        """Build them; see `make_engines`."""
        return make_engines(writer, manifest, sources, self, report, progress)

    @property
    def chosen(self) -> tuple[Product, ...]:
        """The products, each once."""
        unknown = [name for name in self.products if name not in PRODUCTS]
        if unknown or not self.products:
            got = ", ".join(map(repr, unknown)) or "none"
            raise UsageError(
                f"the products asked for are {got}; known are {', '.join(PRODUCTS)}", where="--to"
            )
        return tuple(PRODUCTS[name] for name in dict.fromkeys(self.products))


def add_engines(
    root: str | os.PathLike[str],
    request: EngineRequest,
    report: Report = lambda line: None,
    progress: Progress = lambda phase, done, steps: None,
) -> Bundle:
    """Build engines of a bundle's variants and add them to it; one that is the same but for its shapes is replaced.

    Args:
        root: The bundle.
        request: What to build.
        report: Called with a line for each engine.
        progress: Told how far each build is.

    Raises:
        GantkError: It is no bundle, is damaged, lacks a precision, or a build fails: the bundle stays as it was.
        UsageError: See `EngineRequest.check`; or shapes that do not suit the inputs.
        BackendMissingError: See there.
    """
    request.check()
    for precision in request.precisions:
        Bundle.read(root).find(precision)
    with Writer(root, force=True) as writer:
        bundle = Bundle.read(root)  # Again, for now nobody else writes it.
        held = _held(bundle, report)
        manifest = make_engines(writer, held, Sources.of(bundle), request, report, progress)
        return writer.commit(manifest)


def _held(bundle: Bundle, report: Report) -> Manifest:
    """What a bundle has of its manifest: engines whose files are gone are no longer named.

    Raises:
        GantkError: Another file is missing or damaged, which is said before a build rather than after it.
    """
    manifest = bundle.manifest
    for ref in manifest.files:
        if all(ref != engine.file for engine in manifest.engines):
            bundle.read_file(ref)
    there = [engine for engine in manifest.engines if (bundle.root / engine.file.path).is_file()]
    for engine in manifest.engines:
        if engine not in there:
            report(f"  no longer named: {engine.label}, for `{engine.file.path}` is gone")
    return replace(manifest, engines=tuple(there))


def make_engines(
    writer: Writer,
    manifest: Manifest,
    sources: Sources,
    request: EngineRequest,
    report: Report = lambda line: None,
    progress: Progress = lambda phase, done, steps: None,
) -> Manifest:
    """Build engines into a bundle that is being written.

    Args:
        writer: Of the bundle.
        manifest: With the variants to build from.
        sources: Their files.
        request: What to build.
        report: Called with a line for each engine.
        progress: Told how far each build is.

    Returns:
        The manifest with the engines. One that is like one that was there, but for its shapes, takes its place.

    Raises:
        As `add_engines`.
    """
    engines = {engine.label: engine for engine in manifest.engines}
    variants = _choose(manifest, request)
    for product in request.chosen:
        for variant in variants:
            engine = _build(writer, product, manifest, variant, sources, request, progress)
            report(f"  {engine.label}: {engine.file.size_bytes / 2**20:.1f} MiB")
            left_out = missed_targets(product, engine, targets(load(product)), request.options)
            if left_out:
                report(f"  left out: {'; '.join(left_out)}")
            made = replace(manifest, engines=tuple(engines.values()))
            engine = with_probe(writer, made, engine, sources, report)
            engine = tried(writer.so_far(manifest), engine, writer.root, report)
            replaced = engines.get(engine.label)
            if replaced is not None and replaced.profiles != engine.profiles:
                report(
                    f"  in the place of the one for {replaced.served}: several profiles make one engine for both"
                )
            engines[engine.label] = engine
        unfit = gpu_trouble(product)
        if unfit is not None:
            report(f"  none of these runs here: {unfit.reason}; {unfit.hint}")
    return replace(manifest, engines=tuple(engines.values()))


def _choose(manifest: Manifest, request: EngineRequest) -> list[Variant]:
    """The variants to build from. What one of them does not suit is refused before the first takes its minutes."""
    variants = [
        variant
        for variant in manifest.variants
        if variant.form not in SKIPPED_FORMS
        and (not request.precisions or variant.precision in request.precisions)
    ]
    request.check_network(manifest, [manifest.interface(variant) for variant in variants])
    if request.options.tf32 and not any(variant.precision == "fp32" for variant in variants):
        raise UsageError("tf32 is a way to compute fp32 engines, and there is no fp32 file", where="--tf32")
    replace(request, precisions=tuple(variant.precision for variant in variants)).check()
    return variants


def _build(
    writer: Writer,
    product: Product,
    manifest: Manifest,
    variant: Variant,
    sources: Sources,
    request: EngineRequest,
    progress: Progress,
) -> Engine:
    """One engine, in its file."""
    data, where = sources.read(variant), sources.name(variant)
    refuse_external(data, where)
    # The export of a fp16 file has looked at the range of every tensor.
    fits_fp16 = any((other.precision, other.form) == ("fp16", variant.form) for other in manifest.variants)
    data, rewrites = adapt(product, data, variant.precision, where, fits_fp16=fits_fp16)
    profiles = request.profiles(manifest, manifest.interface(variant))
    options = replace(
        request.options,
        tf32=request.options.tf32 and variant.precision == "fp32",
        # The same engine, in whatever order they are named.
        options=tuple(option for option in ENGINE_OPTIONS if option in request.options.options),
    )
    built = build_apart(product, data, variant.precision, profiles, options, where, progress)
    assert product.version is not None
    name = name_of(product.name, variant, built.targets, tf32=options.tf32)
    return Engine(
        file=writer.add(name, built.data),
        backend=product.name,
        version=product.version,
        targets=built.targets,
        precision=variant.precision,
        form=variant.form,
        source=variant.file.sha256,
        profiles=profiles,
        tf32=options.tf32,
        options=options.options,
        rewrites=(*rewrites, *built.rewrites),
        layers=built.found.layers,
        heavy_layers=built.found.heavy_layers,
        timing_cache=built.timing_cache,
        workspace_bytes=options.workspace_bytes,
    )


def name_of(product: str, variant: Variant, targets: Sequence[str], *, tf32: bool) -> str:
    """What the file of an engine is called."""
    form = "" if variant.form == "plain" else f"-{variant.form}"
    return f"engines/{product}-{variant.precision}{'-tf32' if tf32 else ''}{form}-{'+'.join(targets)}.engine"

# SPDX-License-Identifier: Apache-2.0
"""Many styles, one engine: a bundle's engines with the weights of another checkpoint, without building them again."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote

from gantk.bundle import Bundle, Engine, Interface, Manifest, Variant, Writer
from gantk.checkpoint import Generator, load_generator
from gantk.errors import GantkError
from gantk.export.engines.audit import QUANTISED
from gantk.export.engines.cells import adapt
from gantk.export.engines.graphs import difference
from gantk.export.engines.maker import Sources
from gantk.export.engines.pipeline import name_of
from gantk.export.engines.probe import with_probe
from gantk.export.engines.progress import Progress, Report
from gantk.export.engines.weights import put_weights
from gantk.export.pipeline import export
from gantk.files import resolved
from gantk.models.weights import differences
from gantk.runtime import driver
from gantk.runtime.engines import EngineFile, runs_on
from gantk.runtime.products import PRODUCTS, load, need_gpu


def refit(
    root: str | os.PathLike[str],
    source: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    *,
    force: bool = False,
    psnr_min: float | None = None,
    report: Report = lambda line: None,
    progress: Progress = lambda phase, done, steps: None,
) -> Bundle:
    """Put the weights of another checkpoint of the same architecture into a bundle.

    Its ONNX files are exported anew and verified as `gantk.export.export` does; its engines are not built again. They
    are unverified until they have been run with the new probe. An engine that cannot be refitted here is left out of
    the bundle that is written, for it would compute with the old weights.

    Args:
        root: The bundle.
        source: A run folder, a checkpoint file, or another bundle.
        output: The bundle to write; by default `root` itself, which then is replaced.
        force: Replace a bundle that is in `output`.
        psnr_min: See `gantk.export.export`.
        report: Called with a line at each step.
        progress: Told how many engines are done.

    Raises:
        BackendMissingError: A product is not installed, or there is no GPU.
        GantkError: No engine can be refitted, the library does not take the weights of one, the checkpoint is of
            another architecture, or a file does not compute what PyTorch does: nothing is written.
    """
    bundle = Bundle.read(root)
    engines = Refit(bundle)
    engines.check()
    report("loading the checkpoints")
    _refuse_other_architecture(load_generator(root), load_generator(source), bundle, Path(source))
    variants = bundle.manifest.variants
    forms = {variant.form for variant in variants}
    in_place = output is None or resolved(Path(output)) == resolved(bundle.root)
    return export(
        source,
        bundle.root if output is None else output,
        precisions=tuple(dict.fromkeys(variant.precision for variant in variants)),
        pictures=any(spec.dtype == "uint8" for spec in bundle.manifest.outputs),
        force=force or in_place,
        rewrites="rewritten" in forms,
        tiles="statistics" in forms,
        psnr_min=psnr_min,
        engines=engines,
        report=report,
        progress=progress,
    )


@dataclass(frozen=True)
class Refit:
    """A bundle's engines, to be given the weights of new files of its variants.

    Args:
        bundle: That holds them, with the files that they were built from.
    """

    bundle: Bundle

    def check(self) -> None:
        """Refuse what cannot be refitted here, before anything is loaded.

        Raises:
            BackendMissingError: No product of an engine is installed, or there is no GPU.
            GantkError: It has no checkpoint, a quantised file, or no engine that was built refittable, and for this
                machine.
        """
        manifest, root = self.bundle.manifest, self.bundle.root
        # First what no other engine would change.
        if manifest.checkpoint is None:
            raise GantkError(
                f"`{root}` holds no checkpoint, whose place another could take; an exported step has none, "
                "and no ONNX file from elsewhere",
                where=str(root / "manifest.json"),
                hint="export it anew, with its engines: gantk export -h",
            )
        quantised = next((v for v in manifest.variants if v.precision in QUANTISED), None)
        if quantised is not None:
            raise GantkError(
                f"`{quantised.file.path}` is {quantised.precision}, whose scales were measured with the old weights; "
                "refitted are bundles of fp32, fp16 and bf16",
                where=str(root / "manifest.json"),
                hint="gantk export RUN --precision int8 --calibrate DIR measures them anew",
            )
        if not manifest.engines:
            raise GantkError(
                f"`{root}` has no engine to refit",
                where=str(root / "manifest.json"),
                hint=f"gantk export {quote(str(root))} --to tensorrt --engine-options refit builds one, "
                "on a machine with a GPU",
            )
        if not self.refittable:
            # Rather a reason that lies in this machine than that an engine was not built refittable.
            raise min(self.left_out, key=lambda pair: "refit" not in pair[0].options)[1]

    @property
    def refittable(self) -> tuple[Engine, ...]:
        """The engines that can be refitted here."""
        return tuple(
            held for held in self.bundle.manifest.engines if _trouble(held, self.bundle.root) is None
        )

    @property
    def left_out(self) -> tuple[tuple[Engine, GantkError], ...]:
        """The others, each with the reason."""
        found = ((held, _trouble(held, self.bundle.root)) for held in self.bundle.manifest.engines)
        return tuple((held, trouble) for held, trouble in found if trouble is not None)

    def check_network(
        self, network: Manifest, interfaces: Sequence[Interface], further: Sequence[str] = ()
    ) -> None:
        """Nothing: the engines keep their shapes, and the network has been compared with theirs."""

    def make(
        self,
        writer: Writer,
        manifest: Manifest,
        sources: Sources,
        report: Report,
        progress: Progress,
    ) -> Manifest:
        """Refit every engine that can be; a bundle of new files does not keep one with the old weights.

        Args:
            writer: Takes their files.
            manifest: With the new variants.
            sources: Their files.
            report: Called with a line for each engine, also for those that are left out.
            progress: Told how many are done.

        Returns:
            The manifest with the engines.

        Raises:
            GantkError: A new file is another graph than the old one, or the library refuses its weights.
        """
        made: dict[str, Engine] = {}
        for old, trouble in self.left_out:
            report(f"  left out {old.label}, which has the old weights: {trouble.what}")
        held = self._one_of_each(report)
        for count, old in enumerate(held, 1):
            new = self._refit(writer, manifest, sources, old)
            done = replace(manifest, engines=tuple(made.values()))
            new = with_probe(writer, done, new, sources, report)
            made[new.label] = new
            report(f"  refitted {new.label}: {new.file.size_bytes / 2**20:.1f} MiB")
            progress("refitting", count, len(held))
        return replace(manifest, engines=tuple(made.values()))

    def _one_of_each(self, report: Report) -> list[Engine]:
        """What is refitted: of engines that `gantk.open` would not tell apart once they have weights, the first.

        Those that have some, and so are the ones that run so far, come before those that were built without.
        """
        held: dict[str, Engine] = {}
        for old in sorted(self.refittable, key=lambda engine: "strip" in engine.options):
            other = held.setdefault(_refitted(old).label, old)
            if other is not old:
                report(
                    f"  left out {old.label} for {old.served}: with its weights it is as the one for {other.served}, "
                    "but for the shapes; one profile, --min to --max, makes one engine for both"
                )
        return list(held.values())

    def _refit(self, writer: Writer, manifest: Manifest, sources: Sources, old: Engine) -> Engine:
        """One engine with new weights, in its file."""
        before, product = self.bundle.manifest.source(old), PRODUCTS[old.backend]
        variant = _find(manifest, before)
        where = str(self.bundle.root / before.file.path)
        data = sources.read(variant)
        different = difference(self.bundle.read_file(before.file), data)
        if different is not None:
            raise _other_architecture(f"its {variant.label} file {different}", self.bundle, where)
        data, rewrites = adapt(product, data, variant.precision, where)
        if rewrites != old.rewrites:
            raise GantkError(
                f"`{old.file.path}` was built through {', '.join(old.rewrites) or 'no rewrite'}; "
                f"this gantk has {', '.join(rewrites) or 'none'} for it",
                where=where,
                hint=f"gantk export RUN --to {product.name} --engine-options refit builds it anew",
            )
        interface = self.bundle.manifest.interface(before)
        file = EngineFile(self.bundle.read_file(old.file), self.bundle.root / old.file.path, old, interface)
        new = _refitted(old)
        name = name_of(product.name, variant, new.targets, tf32=new.tf32)
        made = writer.add(name, put_weights(product, file, data))
        return replace(new, file=made, source=variant.file.sha256)


def _refitted(old: Engine) -> Engine:
    """What the manifest says of an engine that has other weights, but for its file and their source."""
    return replace(
        old,
        # What the library writes here is only known to run on the GPU at hand.
        targets=old.targets if "hardware-compatible" in old.options else driver.targets_here(),
        # The weights are in the engine then.
        options=tuple(option for option in old.options if option != "strip"),
        parity=(),
        probe=None,
    )


def _trouble(held: Engine, root: Path) -> GantkError | None:
    """Why an engine cannot be refitted here, or `None`."""
    try:
        _check(held, root)
    except GantkError as error:
        return error
    return None


def _check(held: Engine, root: Path) -> None:
    """Refuse an engine that was not built refittable, or that this machine does not load."""
    product, where = PRODUCTS[held.backend], str(root / held.file.path)
    again = f"gantk export {quote(str(root))} --to {product.name} --engine-options refit"
    rebuild = f"{again} adds one that is, where there is a GPU"
    if "refit" not in held.options:
        options = ", ".join(held.options) or "no option"
        raise GantkError(
            f"`{held.file.path}` was not built refittable, but with {options}", where=where, hint=rebuild
        )
    load(product)
    need_gpu(product, "refit engines")
    target = driver.targets_here()[0]
    if not runs_on(held, target):
        raise GantkError(
            f"`{held.file.path}` is for {', '.join(held.targets)}; the GPU here is {target}",
            where=where,
            hint="refit it on a machine that runs it",
        )
    # Also where this version runs it: the bytes would come from two versions.
    if held.version != product.version:
        raise GantkError(
            f"`{held.file.path}` was built with {product.name} {held.version}; {product.version} is installed",
            where=where,
            hint=f"pip install {product.packages[0]}=={held.version}",
        )


def _refuse_other_architecture(old: Generator, new: Generator, bundle: Bundle, source: Path) -> None:
    if new.family != old.family:
        raise _other_architecture(f"it is {new.family}, not {old.family}", bundle, str(source))
    different = differences(old.module.state_dict(), new.module.state_dict())
    if different is not None:
        raise _other_architecture(f"it {different}", bundle, str(source))


def _other_architecture(how: str, bundle: Bundle, where: str) -> GantkError:
    return GantkError(
        f"the checkpoint is of another architecture than the engines of `{bundle.root}`: {how}",
        where=where,
        hint="gantk export RUN --to tensorrt --engine-options refit builds engines of it",
    )


def _find(manifest: Manifest, before: Variant) -> Variant:
    """The new file of a variant."""
    return next(v for v in manifest.variants if (v.precision, v.form) == (before.precision, before.form))

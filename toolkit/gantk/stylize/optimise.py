# SPDX-License-Identifier: Apache-2.0
"""Style transfer by optimisation over an exported step: pictures in, a picture out, and no torch.

It does what `gantk.gatys` does with the same settings: sizes from coarse to fine, the same start, the same losses.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from gantk.bundle import STEP_FAMILY, Bundle
from gantk.errors import GantkError, UsageError
from gantk.runtime.pictures import FORMATS, Pixels, load, save
from gantk.runtime.registry import open as open_runner
from gantk.runtime.runner import Array, Runner
from gantk.stylize.descent import run_adam, run_lbfgs
from gantk.stylize.resample import enlarge, fitted, noise, to_array, to_pixels
from gantk.stylize.schedule import Losses, Optimised, check_target, plan_sizes, preview_path, steps_at
from gantk.stylize.settings import Settings

_TINY = 1e-12


@dataclass(frozen=True)
class Result(Optimised):
    """What an optimisation made, and what ran the step in which precision."""

    backend: str
    precision: str


class Listener:
    """Told of every step and silent; override what you want to hear. It can also end the work."""

    def step(self, done: int, total: int, longer: int, losses: Losses) -> None:
        """A step is done, at a size whose longer side is `longer`; `losses` are from before it."""

    def ends(self) -> bool:
        """Whether to stop after this step and save what there is."""
        return False


@dataclass
class _Sitting:
    """What goes on while a picture is optimised."""

    settings: Settings
    out: Path
    listener: Listener
    content: Pixels
    styles: Sequence[Pixels]
    targets: Runner
    step: Runner
    growth: float
    total: int = 0
    history: list[Losses] = field(default_factory=list)


def optimise(
    content: str | os.PathLike[str],
    styles: Sequence[str | os.PathLike[str]],
    bundle: str | os.PathLike[str],
    out: str | os.PathLike[str],
    settings: Settings | None = None,
    *,
    backend: str = "auto",
    precision: str | None = None,
    threads: int | None = None,
    force: bool = False,
    listener: Listener | None = None,
) -> Result:
    """Paint a picture in a style by optimising it over an exported step, and save it.

    Args:
        content: The picture file to stylise.
        styles: One or more picture files in the style; several are blended.
        bundle: Made by ``gantk export --gatys``.
        out: The file to make: .png, .webp or .jpg. Previews go beside it, as ``NAME.preview.png``.
        settings: Everything else.
        backend: As for `gantk.open`.
        precision: As for `gantk.open`.
        threads: As for `gantk.open`.
        force: Whether to replace `out`.
        listener: Told of everything.

    Raises:
        UsageError: `out` has another suffix, or a picture is too small.
        GantkError: A picture or the bundle cannot be read, the bundle holds no step, or `out` exists or cannot be
            written.
        BackendMissingError: As for `gantk.open`.
    """
    settings, out = settings or Settings(), Path(out)
    check_target(out, FORMATS, force=force)
    if not styles or (settings.shares and len(settings.shares) != len(styles)):
        raise UsageError(
            f"{len(styles)} styles and {len(settings.shares)} shares; at least one style is wanted, and as many "
            "shares, or none",
            hint="--style PICTURE",
        )
    facts = read_step(bundle)
    pixels = load(Path(content))[0]
    pictures = [load(Path(path))[0] for path in styles]
    sizes = plan_sizes(settings, pixels, facts.smallest)
    _check_sizes(settings, content, pixels, list(zip(styles, pictures, strict=True)), sizes, facts.smallest)
    form = "adam" if settings.optimizer == "adam" else "plain"
    began_s = time.perf_counter()
    with (
        open_runner(bundle, backend, precision, form="targets", threads=threads) as targets,
        open_runner(bundle, backend, precision, form=form, threads=threads) as step,
    ):
        sitting = _Sitting(
            settings, out, listener or Listener(), pixels, pictures, targets, step, facts.growth
        )
        sitting.total = sum(steps_at(settings.steps, size) for size in sizes)
        picture = to_pixels(_paint(sitting, sizes))
        ran = (step.backend, step.precision)
    save(out, picture)
    taken = len(sitting.history)
    size = (picture.shape[1], picture.shape[0])
    seconds = time.perf_counter() - began_s
    return Result(out, size, taken, sitting.history[-1], seconds, taken < sitting.total, *ran)


@dataclass(frozen=True)
class StepFacts:
    """What a bundle says of its step.

    Args:
        smallest: The smallest height and width of the pictures that it takes.
        growth: What its features are to grow by so that the lesson's weights fit them (``sums``).
    """

    smallest: int
    growth: float


def read_step(bundle: str | os.PathLike[str]) -> StepFacts:
    """What is to be known of the step in a bundle.

    Raises:
        GantkError: There is no bundle, it is damaged, or it holds something else.
    """
    manifest = Bundle.read(bundle).manifest
    smallest, growth = manifest.config.get("smallest_size"), manifest.config.get("growth")
    forms = {variant.form for variant in manifest.variants}
    known = isinstance(smallest, int) and isinstance(growth, float)
    if manifest.family != STEP_FAMILY or not known or not {"plain", "adam", "targets"} <= forms:
        raise GantkError(
            f"`{bundle}` holds a {manifest.family} network and no optimisation step",
            where=str(bundle),
            hint="gantk export --gatys --vgg FILE -o STEP.gantk makes one",
        )
    return StepFacts(smallest, growth)  # type: ignore[arg-type]


def _paint(sitting: _Sitting, sizes: Sequence[int]) -> Array:
    settings, picture = sitting.settings, None
    for longer in sizes:
        size = fitted(sitting.content, longer)
        content = to_array(sitting.content, size)
        wanted = _wanted(sitting, content, longer)
        start = _start(settings, content) if picture is None else enlarge(picture, size)

        def on_step(number: int, losses: Losses, now: Array, longer: int = longer) -> bool:
            sitting.history.append(losses)
            done, every = len(sitting.history), settings.preview_every
            sitting.listener.step(done, sitting.total, longer, losses)
            if every and done % every == 0:
                save(preview_path(sitting.out), to_pixels(now))
            return not sitting.listener.ends()

        steps, lr = steps_at(settings.steps, longer), settings.lr
        if settings.optimizer == "adam":
            decays = {"beta1": settings.beta1, "epsilon": settings.adam_eps}
            picture = run_adam(sitting.step, wanted, start, steps, on_step, lr=lr, **decays)
        else:
            picture = run_lbfgs(sitting.step, wanted, start, steps, on_step, lr=lr)
        if sitting.listener.ends():
            break
    assert picture is not None
    return picture


def _wanted(sitting: _Sitting, content: Array, longer: int) -> dict[str, Array]:
    """The targets at one size, and the weights of the losses that suit them."""
    settings = sitting.settings
    made = sitting.targets.run({"picture": content})
    name = next(name for name in made if name.startswith("content."))
    layers = [name for name in made if name.startswith("gram.")]
    style_longer = round((settings.style_size or settings.size) * longer / settings.size)
    given = settings.shares or (1.0,) * len(sitting.styles)
    blend = {layer: np.zeros_like(made[layer]) for layer in layers}
    for share, pixels in zip(given, sitting.styles, strict=True):
        style = sitting.targets.run({"picture": to_array(pixels, fitted(pixels, style_longer))})
        # The sum over styles of share * (G - A)^2 is (G - mean A)^2 and a constant.
        for layer in layers:
            blend[layer] += np.float32(share / sum(given)) * style[layer]
    relative = settings.measure == "relative"
    squares = max(float(np.square(made[name], dtype=np.float64).sum()), _TINY)
    # The graph's content loss has a half of its own.
    content_weight = settings.content_weight * (2.0 / squares if relative else sitting.growth**2)
    per_layer = [
        1.0 / max(float(np.square(gram, dtype=np.float64).mean()), _TINY) if relative else sitting.growth**4
        for gram in blend.values()
    ]
    weights = {
        "content_weight": content_weight,
        "style_weight": settings.style_weight,
        "variation_weight": settings.variation_weight / (content.size if relative else 1),
        "layer_weights": np.array(per_layer) / len(layers),
    }
    scaled = {weight: np.asarray(value, np.float32) for weight, value in weights.items()}
    return {name: made[name], **blend, **scaled}


def _start(settings: Settings, content: Array) -> Array:
    share = np.float32({"content": 0.0, "noise": 1.0, "blend": settings.noise}[settings.init])
    drawn = noise(content.shape, settings.seed)
    way = drawn - content
    # As torch interpolates, which meets both ends exactly.
    return content + share * way if share < 0.5 else drawn - way * (np.float32(1.0) - share)


def _check_sizes(
    settings: Settings,
    name: str | os.PathLike[str],
    content: Pixels,
    styles: Sequence[tuple[str | os.PathLike[str], Pixels]],
    sizes: Sequence[int],
    smallest: int,
) -> None:
    coarsest = round((settings.style_size or settings.size) * sizes[0] / settings.size)
    for path, size in (
        (name, fitted(content, sizes[0])),
        *((path, fitted(pixels, coarsest)) for path, pixels in styles),
    ):
        if min(size) < smallest:
            raise UsageError(
                f"`{path}` would have {size[1]} x {size[0]} pixels; the step wants at least {smallest} each way",
                where=str(path),
                hint="choose a larger --size or --style-size, or cut the picture to a less narrow one",
            )

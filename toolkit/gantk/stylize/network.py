# SPDX-License-Identifier: Apache-2.0
"""A feed-forward style network behind one function: pixels in, pixels out, whatever the bundle takes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from types import TracebackType

import numpy as np

from gantk.errors import GantkError, UsageError
from gantk.runtime.model import from_path
from gantk.runtime.pictures import Pixels, to_pixels
from gantk.runtime.registry import open as open_runner
from gantk.runtime.runner import Array, Runner
from gantk.tensors import TensorSpec


@dataclass(frozen=True)
class Look:
    """The style to paint in.

    Args:
        weights: The share of each of the network's styles, where it has several.
        picture: The style picture, uint8[H, W, 3], for a network that takes one.
        alpha: How much of its style, from 0 to 1.
    """

    weights: tuple[float, ...] | None = None
    picture: Pixels | None = None
    alpha: float = 1.0

    def feeds(self, count: int) -> dict[str, Array]:
        """The inputs beside the pictures, for `count` of them."""
        feeds: dict[str, Array] = {}
        if self.weights is not None:
            feeds["style_weights"] = np.tile(np.asarray(self.weights, np.float32), (count, 1))
        if self.picture is not None:
            feeds["style"] = np.repeat(self.picture[None], count, axis=0)
            feeds["alpha"] = np.full(count, self.alpha, np.float32)
        return feeds


class StyleNetwork:
    """A style network, open and ready to paint. Threads may share one.

    Args:
        runner: What runs it.
        styles: The names of its styles.
        path: The bundle or ONNX file that it came from.
        threads: Of the runner; `None` for all cores.

    Raises:
        GantkError: What `runner` runs is not a style network.
    """

    def __init__(
        self, runner: Runner, styles: tuple[str, ...], path: Path, threads: int | None = None
    ) -> None:
        self.runner, self.styles, self.path, self.threads = runner, styles, path, threads
        inputs = {spec.name: spec for spec in runner.inputs}
        known = [{"picture"}, {"picture", "style_weights"}, {"picture", "style", "alpha"}]
        if set(inputs) not in known or not _is_picture(inputs["picture"]) or len(runner.outputs) != 1:
            had = f"in: {', '.join(map(str, runner.inputs))}; out: {', '.join(map(str, runner.outputs))}"
            raise GantkError(
                f"`{path}` is not a style network, from pictures to pictures; it has {had}",
                where=str(path),
                hint=f"gantk run {quote(str(path))} runs any network",
            )
        self.picture = inputs["picture"]
        self.takes_style_picture = "style" in inputs
        self.style_count = _last_size(inputs["style_weights"]) if "style_weights" in inputs else 1
        if len(styles) != self.style_count:
            self.styles = tuple(map(str, range(self.style_count)))

    def paint(self, pixels: Pixels, look: Look) -> Pixels:
        """Stylise pictures.

        Args:
            pixels: uint8[N, H, W, 3], of any size.
            look: From `choose_look`.

        Returns:
            uint8[N, H, W, 3].

        Raises:
            GantkError: The backend failed, or the network made values that are not finite.
        """
        count, height, width, _ = pixels.shape
        picture = to_input(pad_to(self.picture.smallest, pixels), self.picture)
        feeds = {**self.feeds(look, count), self.picture.name: picture}
        output = self.runner.outputs[0]
        painted = to_pixels(self.runner.run(feeds)[output.name], output, output.layout)
        return painted[:, :height, :width]

    def feeds(self, look: Look, count: int) -> dict[str, Array]:
        """The inputs beside the pictures, for `count` of them."""
        feeds = look.feeds(count)
        for spec in self.runner.inputs:
            if spec.name == "style":
                feeds["style"] = to_input(pad_to(spec.smallest, feeds["style"]), spec)
        return feeds

    def close(self) -> None:
        self.runner.close()

    def __enter__(self) -> StyleNetwork:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_network(
    path: str | Path,
    backend: str = "auto",
    precision: str | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> StyleNetwork:
    """Open the style network of a bundle or a lone ONNX file; arguments and errors as `gantk.open`.

    Raises:
        GantkError: Also where it is not a style network.
    """
    path = Path(path)
    styles = from_path(path, precision).config.get("styles")
    named = isinstance(styles, list) and all(isinstance(style, str) for style in styles)
    runner = open_runner(path, backend, precision, device, threads=threads)
    try:
        return StyleNetwork(runner, tuple(styles) if named and styles else (), path, threads)
    except BaseException:
        runner.close()
        raise


def choose_look(
    network: StyleNetwork, style: str | None = None, weights: str | None = None, alpha: float | None = None
) -> Look:
    """What the user asked for, as the network's inputs.

    Args:
        network: The network.
        style: A style's name or index, from 0, or the path of a style picture for a network that takes one;
            by default the first style.
        weights: Several styles with shares, ``mosaic=0.7,candy=0.3``; they are scaled to the sum 1.
        alpha: How much of a style picture's style, from 0 to 1; 1 by default.

    Raises:
        UsageError: There is no such style, a share is no number, or the option is of another kind of network.
        GantkError: The style picture cannot be read.
    """
    if network.takes_style_picture:
        return _style_picture(network, style, weights, alpha)
    if alpha is not None:
        raise UsageError(f"`{network.path}` takes no style picture, so there is no alpha", where="--alpha")
    if style is not None and weights is not None:
        raise UsageError("one style or a blend; not both", where="--style-weights")
    shares = _shares(network, weights) if weights is not None else _one_hot(network, style or "0")
    return Look(weights=shares if network.style_count > 1 else None)


def pad_to(smallest: int, pixels: Pixels) -> Pixels:
    """Pictures [N, H, W, 3] with their edges repeated below and right of them up to sides of `smallest`."""
    missing = [max(0, smallest - side) for side in pixels.shape[1:3]]
    if not any(missing):
        return pixels
    return np.pad(pixels, ((0, 0), (0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")


def to_input(pixels: Pixels, spec: TensorSpec) -> Array:
    """Pixels [N, H, W, 3] as a network takes them: as they are, or as floats [N, 3, H, W] in its range."""
    if spec.dtype == "uint8":
        return pixels
    low, high = spec.range or (0.0, 1.0)
    scaled = pixels.transpose(0, 3, 1, 2).astype(np.float32) * np.float32((high - low) / 255.0)
    return scaled + np.float32(low)


def _is_picture(spec: TensorSpec) -> bool:
    pixels = spec.dtype == "uint8" and len(spec.shape) == 4 and spec.shape[3] == 3
    return pixels or (spec.dtype == "float32" and len(spec.shape) == 4 and spec.shape[1] == 3)


def _last_size(spec: TensorSpec) -> int:
    size = spec.shape[-1]
    return size if isinstance(size, int) else 1


def _style_picture(
    network: StyleNetwork, style: str | None, weights: str | None, alpha: float | None
) -> Look:
    from gantk.stylize.pictures import read

    if weights is not None:
        raise UsageError(f"`{network.path}` takes a style picture, not shares", where="--style-weights")
    if style is None:
        raise UsageError(f"`{network.path}` wants a style picture", where="--style", hint="--style PIC")
    if alpha is not None and not 0.0 <= alpha <= 1.0:
        raise UsageError(f"alpha is {alpha:g}; 0 to 1 are allowed", where="--alpha")
    return Look(picture=read(Path(style)).pixels, alpha=1.0 if alpha is None else alpha)


def _one_hot(network: StyleNetwork, style: str) -> tuple[float, ...]:
    chosen = _index(network, style)
    return tuple(float(index == chosen) for index in range(network.style_count))


def _shares(network: StyleNetwork, text: str) -> tuple[float, ...]:
    shares = [0.0] * network.style_count
    for item in text.split(","):
        name, _, number = item.rpartition("=")
        try:
            share = float(number)
        except ValueError:
            share = math.nan
        if not name or not 0.0 <= share < math.inf:
            raise UsageError(
                f"{item!r} is not STYLE=SHARE with a share of 0 or more; {_listed(network)}",
                where="--style-weights",
            )
        shares[_index(network, name.strip())] += share
    if not 0.0 < sum(shares) < math.inf:
        raise UsageError("the shares of the styles sum up to 0", where="--style-weights")
    return tuple(share / sum(shares) for share in shares)


def _index(network: StyleNetwork, style: str) -> int:
    if style in network.styles:
        return network.styles.index(style)
    if style.isdecimal() and int(style) < network.style_count:
        return int(style)
    raise UsageError(f"`{network.path}` has no style {style!r}; {_listed(network)}", where="--style")


def _listed(network: StyleNetwork) -> str:
    return "its styles are " + ", ".join(f"{index} {name}" for index, name in enumerate(network.styles))

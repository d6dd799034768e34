# SPDX-License-Identifier: Apache-2.0
"""The shapes that an engine serves: from what its inputs are, and from what was asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gantk.bundle import Interface, Profile, ShapeRange
from gantk.errors import UsageError
from gantk.runtime.arrays import example_shape, parse_shape
from gantk.runtime.following import Follows
from gantk.tensors import TensorSpec

BATCHES = (1, 1, 64)
"""The least, usual and largest batch of networks whose outputs have one size."""

PICTURE_BATCHES = (1, 1, 4)
"""The same where pictures of any size go in."""

SIDES = (64, 512, 1024)
"""The least, usual and largest height and width of a picture; never less than the network takes."""

Sizes = dict[str, tuple[int, int, int]]
"""The least, usual and largest size that each symbol stands for."""

OPTIONS = ("--min", "--opt", "--max")

Given = dict[str, list[tuple[int, ...]]]
"""The shapes that one option gave each input, a profile each, or one for all."""


def make_profiles(
    interface: Interface,
    following: Mapping[str, Follows] | None = None,
    smallest: Sequence[str] = (),
    usual: Sequence[str] = (),
    largest: Sequence[str] = (),
) -> tuple[Profile, ...]:
    """The profiles of an engine.

    A symbol stands for the same size in all inputs: one that was given for one input holds for the others.

    Args:
        interface: Whose inputs they are for.
        following: The symbols whose sizes follow from those of others: see `follows`.
        smallest: ``NAME=1x3x64x64``, as given with ``--min``. An input that is named k times has k profiles, in
            this order; one that is named once, or not at all, is the same in all.
        usual: As given with ``--opt``: what the engine is tuned for.
        largest: As given with ``--max``.

    Raises:
        UsageError: A shape does not read, does not fit its input or another shape, the three are out of order, a
            picture is smaller than the network takes, an input is named more often than another, or there is a
            size for which nothing was said.
    """
    given = [
        _by_name(option, texts, interface.inputs)
        for option, texts in zip(OPTIONS, (smallest, usual, largest), strict=True)
    ]
    counts = {len(shapes) for by_name in given for shapes in by_name.values()} - {1}
    if len(counts) > 1:
        raise UsageError(
            f"inputs are named {' and '.join(map(str, sorted(counts)))} times; each wants one shape, or one a profile",
            where="--min, --opt, --max",
        )
    return tuple(
        _profile(interface.inputs, following or {}, given, index) for index in range(max(counts, default=1))
    )


def default_sizes(inputs: Sequence[TensorSpec]) -> Sizes:
    """The least, usual and largest size for each symbol that is a batch or the side of a picture."""
    free = [
        (symbol, spec.smallest)
        for spec in inputs
        for axis in spec.picture_axes or ()
        if isinstance(symbol := spec.shape[axis], str)
    ]
    sizes: Sizes = {}
    for symbol, least in free:
        low = max(SIDES[0], least, sizes.get(symbol, SIDES)[0])
        sizes[symbol] = (low, max(SIDES[1], low), max(SIDES[2], low))
    batches = PICTURE_BATCHES if free else BATCHES
    first = (spec.shape[0] for spec in inputs if spec.shape)
    return {**{symbol: batches for symbol in first if isinstance(symbol, str)}, **sizes}


def _by_name(option: str, texts: Sequence[str], inputs: Sequence[TensorSpec]) -> Given:
    found: Given = {}
    for text in texts:
        name, shape = parse_shape(text, inputs, option)
        found.setdefault(name, []).append(shape)
    return found


def _profile(
    inputs: Sequence[TensorSpec], following: Mapping[str, Follows], given: Sequence[Given], index: int
) -> Profile:
    said = [
        _bound(inputs, following, by_name, index, option)
        for option, by_name in zip(OPTIONS, given, strict=True)
    ]
    known = default_sizes(inputs)
    sizes: Sizes = {}
    for symbol in dict.fromkeys(size for spec in inputs for size in spec.shape if isinstance(size, str)):
        usual = known.get(symbol)
        if symbol in following:
            follow = following[symbol]
            low, mid, high = known.get(follow.source, SIDES)
            usual = (follow.of(low), follow.of(mid), follow.of(high))
        sizes[symbol] = _filled([sizes_of.get(symbol) for sizes_of in said], usual, symbol, inputs)
    profile = {spec.name: _range(spec, sizes) for spec in inputs}
    for spec in inputs:
        _check_smallest(spec, profile[spec.name])
    return profile


def _bound(
    inputs: Sequence[TensorSpec], following: Mapping[str, Follows], by_name: Given, index: int, option: str
) -> dict[str, int]:
    """The sizes that the shapes of one option give to symbols, in one profile."""
    sizes: dict[str, int] = {}
    by: dict[str, str] = {}

    def bind(symbol: str, size: int, name: str) -> None:
        if sizes.setdefault(symbol, size) != size:
            raise UsageError(
                f"{symbol} is {sizes[symbol]} by {by[symbol]} and {size} by {name}; it is one size in all inputs",
                where=option,
            )
        by.setdefault(symbol, name)

    for spec in inputs:
        shapes = by_name.get(spec.name, ())
        for symbol, size in zip(
            spec.shape, shapes[index if len(shapes) > 1 else 0] if shapes else (), strict=False
        ):
            if isinstance(symbol, str):
                bind(symbol, size, spec.name)
    for symbol, follow in following.items():
        if follow.source in sizes:
            bind(symbol, follow.of(sizes[follow.source]), by[follow.source])
    return sizes


def _filled(
    said: Sequence[int | None], usual: tuple[int, int, int] | None, symbol: str, inputs: Sequence[TensorSpec]
) -> tuple[int, int, int]:
    """The least, usual and largest size; what was not said yields to what was."""
    known = [size for size in said if size is not None]
    if usual is None and not known:
        of = next(spec for spec in inputs if symbol in spec.shape)
        raise UsageError(
            f"nothing says how large {symbol} of {of} may be",
            where=str(of),
            hint=f"--opt {example_shape(of)} says it, and --min and --max where it is not always the same",
        )
    least, middle, most = usual or (min(known), max(known), max(known))
    low, mid, high = said
    low = min([least, *known]) if low is None else low
    high = max([most, *known]) if high is None else high
    mid = min(max(middle, low), high) if mid is None else mid
    return low, mid, high


def _range(spec: TensorSpec, sizes: Sizes) -> ShapeRange:
    low, mid, high = (
        tuple(sizes[size][which] if isinstance(size, str) else size for size in spec.shape)
        for which in range(3)
    )
    if not all(a <= b <= c for a, b, c in zip(low, mid, high, strict=True)):
        listed = ", ".join("x".join(map(str, shape)) for shape in (low, mid, high))
        raise UsageError(
            f"input {spec.name!r} would have min, opt and max {listed}, which do not grow", where=str(spec)
        )
    return ShapeRange(low, mid, high)


def _check_smallest(spec: TensorSpec, shapes: ShapeRange) -> None:
    """Refuse pictures that the network does not take."""
    sides = [shapes.min[axis] for axis in spec.picture_axes or ()]
    if sides and min(sides) < spec.smallest:
        raise UsageError(
            f"{spec.name} would be as small as {' x '.join(map(str, sides))} pixels; the network takes "
            f"{spec.smallest} x {spec.smallest} and more",
            where="--min",
        )

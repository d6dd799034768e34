# SPDX-License-Identifier: Apache-2.0
"""The shapes that an engine serves: from what its inputs are, and from what was asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from gantk.bundle import Interface, Profile, ShapeRange
from gantk.errors import UsageError
from gantk.runtime.arrays import parse_shape
from gantk.tensors import TensorSpec

BATCHES = (1, 1, 64)
"""The least, usual and largest batch of networks whose outputs have one size."""

PICTURE_BATCHES = (1, 1, 4)
"""The same where pictures of any size go in."""

SIDES = (64, 512, 1024)
"""The least, usual and largest height and width of a picture; never less than the network takes."""

Sizes = dict[str, tuple[int, int, int]]


def make_profiles(
    interface: Interface,
    derived: Mapping[str, tuple[int, int, int]] | None = None,
    smallest: Sequence[str] = (),
    usual: Sequence[str] = (),
    largest: Sequence[str] = (),
) -> tuple[Profile, ...]:
    """The profiles of an engine.

    Args:
        interface: Whose inputs they are for.
        derived: What symbols that are neither batches nor sides of pictures stand for, where that is known.
        smallest: ``NAME=1x3x64x64``, as given with ``--min``. An input that is named k times has k profiles, in
            this order; one that is named once, or not at all, is the same in all.
        usual: As given with ``--opt``: what the engine is tuned for.
        largest: As given with ``--max``.

    Raises:
        UsageError: A shape does not read, does not fit its input, the three are out of order, an input is named
            more often than another, or there is a size for which nothing was said.
    """
    given = {
        option: _by_name(option, texts, interface.inputs)
        for option, texts in (("--min", smallest), ("--opt", usual), ("--max", largest))
    }
    counts = {len(shapes) for by_name in given.values() for shapes in by_name.values()} - {1}
    if len(counts) > 1:
        raise UsageError(
            f"inputs are named {' and '.join(map(str, sorted(counts)))} times; each wants one shape, or one a profile",
            where="--min, --opt, --max",
        )
    sizes = {**default_sizes(interface.inputs), **(derived or {})}
    return tuple(
        {spec.name: _range(spec, sizes, given, index) for spec in interface.inputs}
        for index in range(max(counts, default=1))
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


def _by_name(
    option: str, texts: Sequence[str], inputs: Sequence[TensorSpec]
) -> dict[str, list[tuple[int, ...]]]:
    found: dict[str, list[tuple[int, ...]]] = {}
    for text in texts:
        name, shape = parse_shape(text, inputs, option)
        found.setdefault(name, []).append(shape)
    return found


def _range(
    spec: TensorSpec, sizes: Sizes, given: Mapping[str, dict[str, list[tuple[int, ...]]]], index: int
) -> ShapeRange:
    """The shapes of one input in one profile; what was not given yields to what was."""
    said = {
        option: shapes[index if len(shapes) > 1 else 0]
        for option, by_name in given.items()
        if (shapes := by_name.get(spec.name))
    }
    low, mid, high = (said.get(option) for option in ("--min", "--opt", "--max"))
    if low is None or mid is None or high is None:
        wanted = _defaults(spec, sizes)
        if low is None:
            low = _axiswise(min, wanted[0], *(shape for shape in (mid, high) if shape))
        if high is None:
            high = _axiswise(max, wanted[2], *(shape for shape in (low, mid) if shape))
        if mid is None:
            mid = _axiswise(min, _axiswise(max, wanted[1], low), high)
    if not all(a <= b <= c for a, b, c in zip(low, mid, high, strict=True)):
        listed = ", ".join("x".join(map(str, shape)) for shape in (low, mid, high))
        raise UsageError(
            f"input {spec.name!r} would have min, opt and max {listed}, which do not grow", where=str(spec)
        )
    return ShapeRange(low, mid, high)


def _defaults(spec: TensorSpec, sizes: Sizes) -> tuple[tuple[int, ...], ...]:
    unknown = [size for size in spec.shape if isinstance(size, str) and size not in sizes]
    if unknown:
        raise UsageError(
            f"nothing says how large {', '.join(unknown)} of {spec} may be",
            where=str(spec),
            hint=f"--min {spec.name}=SIZEx... with --opt and --max alike",
        )
    return tuple(
        tuple(sizes[size][which] if isinstance(size, str) else size for size in spec.shape)
        for which in range(3)
    )


def _axiswise(choose: Callable[[Iterable[int]], int], *shapes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(choose(axis) for axis in zip(*shapes, strict=True))

# SPDX-License-Identifier: Apache-2.0
"""`gantk stylize --model`: a feed-forward network on pictures, folders and video."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gantk.cli.output import check_outputs, progress, prose, tell_of_more, write_json
from gantk.errors import UsageError
from gantk.files import resolved

if TYPE_CHECKING:
    from gantk.stylize.painter import Painter

_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@dataclass(frozen=True)
class Request:
    """What the options of the command ask for; see there.

    Args:
        model: A bundle or an ONNX file.
        inputs: Pictures; or one folder, or one video.
        output: A picture, a folder or a video.
    """

    model: Path
    inputs: Sequence[Path]
    output: Path | None = None
    style: str | None = None
    style_weights: str | None = None
    alpha: float | None = None
    size: int | None = None
    keep_colors: bool = False
    quality: int = 92
    format: str | None = None
    force: bool = False
    jobs: int = 2
    batch: int = 1
    damp: float = 0.0
    memory: str = "2.5GiB"
    tile_above: float | None = None
    backend: str = "auto"
    precision: str | None = None
    device: str | None = None
    threads: int | None = None


def apply(request: Request, json: str | None) -> None:
    """Do what was asked for, with a bar, and say what was done."""
    if request.size is not None and request.size < 1:
        raise UsageError(f"a size of {request.size} pixels; at least 1 is wanted", where="--size")
    suffix = _suffix(request.format)
    memory_bytes = parse_memory(request.memory)
    from gantk.stylize.network import choose_look, open_network
    from gantk.stylize.painter import Painter

    with open_network(
        request.model, request.backend, request.precision, request.device, request.threads
    ) as network:
        painter = Painter(
            network,
            choose_look(network, request.style, request.style_weights, request.alpha),
            size=request.size,
            colors=request.keep_colors,
            quality=request.quality,
            memory_bytes=memory_bytes,
            strips_above=None if request.tile_above is None else int(request.tile_above * 1e6),
        )
        facts = _by_kind(request, painter, suffix)
        for reason in network.runner.passed_over.values():
            prose().print(f"passed over: {reason}")
        for large in painter.in_strips[:1]:
            others = f"; likewise {len(painter.in_strips) - 1} more" if len(painter.in_strips) > 1 else ""
            prose().print(f"{large}{others}")
        if json is not None:
            about = {"backend": network.runner.backend, "precision": network.runner.precision}
            look = {"styles": list(network.styles), "style_weights": painter.look.weights}
            strips = {"in_strips": [asdict(large) for large in painter.in_strips]}
            write_json({**facts, **about, **look, **strips}, json)


def parse_memory(text: str) -> int:
    """Bytes from ``2GiB``, ``512M`` or a number.

    Raises:
        UsageError: It does not read so, or is less than 64 MiB.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip().lower())
    size = int(float(found[1]) * _UNITS[found[2]]) if found else 0
    if size < 64 * 2**20:
        raise UsageError(f"{text!r} is not a memory size from 64MiB on, such as 2GiB", where="--memory")
    return size


def _by_kind(request: Request, painter: Painter, suffix: str | None) -> dict[str, Any]:
    from gantk.stylize import video

    first = request.inputs[0]
    if len(request.inputs) > 1:
        return _several(request, painter, suffix)
    if first.is_dir():
        return _folder(request, painter, suffix)
    if first.suffix.lower() in video.SUFFIXES:
        return _video(request, painter)
    return _picture(request, painter, suffix)


def _picture(request: Request, painter: Painter, suffix: str | None) -> dict[str, Any]:
    from gantk.runtime.pictures import FORMATS, check_suffix
    from gantk.stylize.pictures import read, write

    source = request.inputs[0]
    own = source.suffix.lower() if source.suffix.lower() in FORMATS else ".png"
    output = request.output or Path(f"{source.stem}-stylized{suffix or own}")
    if output.is_dir():
        output = output / f"{source.stem}{suffix or own}"
    check_suffix(output, FORMATS)
    check_outputs([output], force=request.force)
    picture = read(source, request.size)
    with _strip_bar(painter):
        write(output, painter.paint(picture), request.quality)
    height, width = picture.pixels.shape[:2]
    _say(f"wrote {output} ({width} x {height})", painter)
    tell_of_more(source)
    return {"kind": "picture", "files": [str(output)], "size": [width, height]}


def _several(request: Request, painter: Painter, suffix: str | None) -> dict[str, Any]:
    from gantk.stylize.folder import stylize_files
    from gantk.stylize.target_folder import target_names

    names = [path.name for path in request.inputs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"two inputs are called {twice!r}, and their outputs would be too")
    target = _target_folder(request)
    outputs = target_names([Path(name) for name in names], target, suffix)
    with _folder_bar() as tell:
        result = stylize_files(
            painter,
            request.inputs,
            outputs,
            target,
            force=request.force,
            jobs=request.jobs,
            batch=request.batch,
            progress=tell,
        )
    return _tell_folder(result, target, painter)


def _folder(request: Request, painter: Painter, suffix: str | None) -> dict[str, Any]:
    from gantk.stylize.folder import stylize_folder

    target = _target_folder(request)
    with _folder_bar() as tell:
        result = stylize_folder(
            painter,
            request.inputs[0],
            target,
            suffix=suffix,
            force=request.force,
            jobs=request.jobs,
            batch=request.batch,
            progress=tell,
        )
    return _tell_folder(result, target, painter)


def _target_folder(request: Request) -> Path:
    first = request.inputs[0]
    folder = request.output or Path(f"{resolved(first).name}-stylized" if first.is_dir() else "stylized")
    if folder.is_file():
        raise UsageError(f"`{folder}` is a file; several pictures want a folder", where="--output")
    return folder


def _tell_folder(result: Any, target: Path, painter: Painter) -> dict[str, Any]:
    for _, reason in result.skipped:
        prose().print(f"skipped: {reason}", style="yellow")
    count = len(result.written)
    parts = [f"wrote {count} picture{'s' * (count != 1)} to {target}"]
    if result.kept:
        parts.append(f"{len(result.kept)} were there already")
    if result.skipped:
        parts.append(f"{len(result.skipped)} could not be stylised")
    _say(", ".join(parts), painter)
    return {
        "kind": "folder",
        "files": [str(path) for path in result.written],
        "kept": [str(path) for path in result.kept],
        "skipped": [{"file": str(path), "reason": reason} for path, reason in result.skipped],
    }


def _video(request: Request, painter: Painter) -> dict[str, Any]:
    from gantk.stylize.video import FORMATS, stylize_video

    source = request.inputs[0]
    own = source.suffix.lower() if source.suffix.lower() in FORMATS else ".mp4"
    output = request.output or Path(f"{source.stem}-stylized{own}")
    check_outputs([output], force=request.force)
    with progress() as bar:
        task = bar.add_task("frames", total=None, note="")
        result = stylize_video(
            painter,
            source,
            output,
            damp=request.damp,
            progress=lambda done, total: bar.update(task, completed=done, total=total or None),
        )
    sound = f" and {result.audio} sound track{'s' * (result.audio > 1)}" if result.audio else ", no sound"
    _say(f"wrote {output}: {result.frames} frames{sound}", painter)
    if result.fault is not None:
        prose().print(
            f"warning: `{source}` is cut or damaged ({result.fault}); what could be decoded is there",
            style="yellow",
        )
    return {"kind": "video", "files": [str(output)], **asdict(result)}


@contextmanager
def _strip_bar(painter: Painter) -> Iterator[None]:
    """A bar for a picture that is painted in strips."""
    with progress() as bar:
        tasks: list[Any] = []

        def tell(done: int, total: int) -> None:
            if not tasks:
                tasks.append(bar.add_task("strips", total=total, note=""))
            bar.update(tasks[0], completed=done)

        painter.progress = tell
        yield


@contextmanager
def _folder_bar() -> Iterator[Any]:
    with progress() as bar:
        task = bar.add_task("pictures", total=None, note="")
        yield lambda done, total, name: bar.update(task, completed=done, total=total, note=name)


def _suffix(name: str | None) -> str | None:
    from gantk.runtime.pictures import FORMATS

    if name is None:
        return None
    suffix = "." + name.lower().lstrip(".")
    if suffix not in FORMATS:
        known = ", ".join(each[1:] for each in FORMATS)
        raise UsageError(f"{name!r} is not a picture format; known are {known}", where="--format")
    return suffix


def _say(text: str, painter: Painter) -> None:
    runner = painter.network.runner
    prose().print(f"{text}, with {runner.backend} in {runner.precision}")

# SPDX-License-Identifier: Apache-2.0
"""Streams of a fake GPU: what is enqueued is done as late as CUDA allows, or in any order that it allows.

Work waits in its stream until somebody waits for it: then what must come before is done, and nothing else. Whoever
reads, overwrites or frees memory without having waited finds it as it was, which a real GPU shows now and then.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

LEGACY = 1
"""The handle of the default stream, of which every GPU has one; 0 stands for it too."""


@dataclass(eq=False)
class Mark:
    """A place in a stream, which an event or another stream waits for.

    Args:
        stream: Which it is in.
        tick: When it was reached, in pieces of work; `None` where it was not.
    """

    stream: FakeStream
    tick: int | None = None


@dataclass(frozen=True)
class Wait:
    """Goes on when a mark was reached."""

    mark: Mark


@dataclass(eq=False)
class FakeStream:
    """Args:
    handle: Its own; those of default streams are all alike.
    gpu: On which it is.
    blocking: Whether it and its GPU's default stream wait for each other.
    """

    handle: int
    gpu: int
    blocking: bool
    items: deque[Callable[[], None] | Mark | Wait] = field(default_factory=deque)


class Schedule:
    """Does the work of all streams."""

    def __init__(self) -> None:
        self.ticks = 0
        self._random: random.Random | None = None
        self._busy: dict[FakeStream, None] = {}

    def shuffle(self, seed: int) -> None:
        """From now on do other work too, now and then, beside that which somebody waits for."""
        self._random = random.Random(seed)

    def add(self, stream: FakeStream, item: Callable[[], None] | Mark | Wait) -> None:
        stream.items.append(item)
        self._busy[stream] = None

    def mark(self, stream: FakeStream) -> Mark:
        """A place after all that the stream has got."""
        mark = Mark(stream)
        self.add(stream, mark)
        return mark

    def reach(self, mark: Mark) -> None:
        """Do what a mark waits for."""
        while mark.tick is None:
            self._some_other()
            if mark.tick is None:
                self._step(mark.stream)

    def drain(self, streams: Iterable[FakeStream]) -> None:
        for stream in list(streams):
            while stream.items:
                self._some_other()
                if stream.items:
                    self._step(stream)
            self._busy.pop(stream, None)

    def drain_gpu(self, gpu: int | None = None) -> None:
        """Do all work of a GPU, or of all."""
        self.drain(stream for stream in self._busy if gpu in (None, stream.gpu))

    def _step(self, stream: FakeStream) -> None:
        item = stream.items[0]
        if isinstance(item, Wait):
            self.reach(item.mark)
        if not stream.items or stream.items[0] is not item:
            return  # What was waited for took it along.
        stream.items.popleft()
        if isinstance(item, Mark):
            item.tick = self.ticks
        elif not isinstance(item, Wait):
            self.ticks += 1
            item()

    def _some_other(self) -> None:
        """Something that may be done already, now and then."""
        if self._random is None or self._random.random() < 0.5:
            return
        ready = [stream for stream in self._busy if stream.items and not _is_held_up(stream.items[0])]
        if ready:
            self._step(self._random.choice(ready))


def _is_held_up(item: object) -> bool:
    return isinstance(item, Wait) and item.mark.tick is None

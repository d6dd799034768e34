# SPDX-License-Identifier: Apache-2.0
"""What a TensorRT product says by its one logger, heard by the thread whose call it is about."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import get_ident, local
from types import ModuleType
from typing import Any

from gantk.runtime.backends.vendor import shortened

MESSAGE_LIMIT = 20
"""How many of the logger's messages an error may draw on."""


class Log:
    """The messages of a product's logger, of which a process has one: a second would be ignored.

    Each thread hears what is said in its own calls; nobody waits for another's call to end.

    Args:
        trt: The product's module.
    """

    def __init__(self, trt: ModuleType) -> None:
        self.logger = _make_logger(trt, self)
        self._thread = local()
        self._listening: dict[int, list[str]] = {}
        """The messages of the threads that listen, by their numbers."""

    def hear(self, message: str) -> None:
        """Keep a message for the thread whose call it is of, and one of a library's own thread for all that listen."""
        own = self._messages()
        for messages in [own] if own is not None else list(self._listening.values()):
            if len(messages) < MESSAGE_LIMIT:
                messages.append(message)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Keep what was said before out of `said`, and hear the library's own threads too."""
        messages = self._messages()
        if messages is None:
            messages = self._thread.messages = []
        messages.clear()
        self._listening[get_ident()] = messages
        try:
            yield
        finally:
            self._listening.pop(get_ident(), None)

    def _messages(self) -> list[str] | None:
        found: list[str] | None = getattr(self._thread, "messages", None)
        return found

    @property
    def complained(self) -> bool:
        """Whether there was an error since `listening` began: some calls tell of theirs nowhere else."""
        return bool(self._messages())

    def said(self) -> str:
        """The errors since `listening` began, on one line; the first is the cause of the others."""
        return shortened(RuntimeError("; ".join(self._messages() or ()) or "it gave no reason"))


@cache
def log(trt: ModuleType) -> Log:
    """The one logger of a product."""
    return Log(trt)


def _make_logger(trt: ModuleType, listener: Log) -> Any:
    """An object of a class that the product's own logger is the base of."""
    heard = (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)  # The bindings want it called by name.

        def log(self, severity: Any, message: str) -> None:
            if severity in heard:
                listener.hear(message)

    return Logger()

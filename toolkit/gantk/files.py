# SPDX-License-Identifier: Apache-2.0
"""Files that appear whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gantk.errors import GantkError

PARTIAL = ".partial"
"""The suffix of a file or folder that is being written; what carries it may be deleted."""

ANOTHER_PLACE = "TMPDIR=FOLDER names a place with more room"
"""The hint where temporary files have none."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)
_NOT_YET_LOCKED_S = 60.0


@contextmanager
def named_errors(path: Path, doing: str, room: str = "make room and run the command again") -> Iterator[None]:
    """Turn an `OSError` into a `GantkError` that says what could not be done with `path`, and why.

    Args:
        path: What it was to be done with.
        doing: The verb.
        room: What to do where the file system is full.
    """
    if "\0" in str(path):
        raise GantkError(f"{str(path)!r} is not a path: it holds a NUL")
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            hint = f"{free_bytes(path) / 2**20:.1f} MiB are free there; {room}"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "choose a place that you may write to, or change its permissions"
        elif isinstance(error, FileNotFoundError):
            hint = "check the path"
        elif error.errno == errno.EFBIG:
            hint = "`ulimit -f` says how large files may be, and the file system has a limit of its own"
        elif isinstance(error, FileExistsError) and error.filename not in (None, str(path)):
            hint = f"`{error.filename}` is in the way of a folder"
        else:
            hint = None
        reason = error.strerror or str(error)
        raise GantkError(f"cannot {doing} `{path}`: {reason}", where=str(path), hint=hint) from error


def lacks_room(error: GantkError) -> bool:
    """Whether an error says that a file system is full."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM


def free_bytes(path: Path) -> int:
    """The free space of the file system that holds `path`, or its nearest parent that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return shutil.disk_usage(path).free


def cache_folder() -> Path:
    """Where gantk keeps, for this user, what can be made or fetched again.

    Raises:
        GantkError: This user has no home, and nothing names another place.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "gantk"
    except RuntimeError as error:
        raise GantkError(
            "there is no folder to keep things in: this user has no home",
            hint="XDG_CACHE_HOME=FOLDER names one",
        ) from error


def partial_name(path: Path) -> Path:
    """A fresh hidden name beside `path` under which to write it."""
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}{PARTIAL}")


def resolved(path: Path) -> Path:
    """A path with its links followed, absolute.

    Raises:
        GantkError: They lead in a circle.
    """
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:
        raise GantkError(f"`{path}` is a link that leads in a circle", where=str(path)) from error


def leads_inside(path: Path, folder: Path) -> bool:
    """Whether `path`, with its links followed, lies in `folder`."""
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # A loop of links, a NUL.
        return False


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable, where its file system can."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # Some network file systems sync no folders.
            raise
    finally:
        os.close(descriptor)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name to write; when the block ends well the file is synced and moved to `path`, else removed.

    Readers of `path` see the old file or the new one, also when the process or the machine dies.

    Raises:
        GantkError: The folder cannot be made or the file cannot be written.
    """
    with named_errors(path, "write"):
        _refuse_folder(path)
        partial = partial_name(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield partial
            with partial.open("rb") as stream:
                os.fsync(stream.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Refuse a file that `write_bytes` could not write, by writing another one where it would be.

    Raises:
        GantkError: It is a folder, or its own cannot be made or written to.
    """
    with named_errors(path, "write"):
        _refuse_folder(path)
        folder = path.absolute().parent
        while not folder.exists():  # The rest is made with the file.
            folder = folder.parent
        trial = partial_name(folder / path.name)
        trial.touch()
        trial.unlink()


def _refuse_folder(path: Path) -> None:
    if path.is_dir() or not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a whole file atomically and durably (see `replacing`)."""
    with replacing(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a whole UTF-8 file atomically and durably (see `replacing`)."""
    write_bytes(path, text.encode())


def check_file(path: Path) -> None:
    """Refuse what is no file before a library does so in its own words.

    Raises:
        GantkError: It is a folder, a pipe or the like, or does not exist.
    """
    if path.is_dir():
        raise GantkError(f"`{path}` is a folder; a file is wanted", where=str(path))
    if not path.is_file():
        what = "is not a regular file" if path.exists() else "does not exist"
        raise GantkError(f"`{path}` {what}", where=str(path), hint="check the path")


def read_bytes(path: Path, limit_bytes: int | None = None, hint: str | None = None) -> bytes:
    """Read a whole regular file.

    Args:
        path: The file.
        limit_bytes: The most that it may have.
        hint: What to do where it has more.

    Raises:
        GantkError: It does not exist, is no regular file, cannot be read or is larger than `limit_bytes`.
    """
    with named_errors(path, "read"), open(path, "rb", opener=regular) as stream:
        size = os.fstat(stream.fileno()).st_size
        if limit_bytes is not None and size > limit_bytes:
            raise GantkError(
                f"`{path}` has {size} bytes; at most {limit_bytes} are expected here",
                where=str(path),
                hint=hint,
            )
        return stream.read()


def regular(path: str, flags: int) -> int:
    """The `opener` for `open` that refuses pipes, sockets and devices: a pipe with no writer blocks for ever.

    Raises:
        GantkError: It is one of these.
    """
    kind = Path(path).stat().st_mode
    if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):  # `open` refuses folders in the usual words.
        raise GantkError(f"`{path}` is not a regular file", where=str(path))
    return os.open(path, flags | os.O_NONBLOCK)  # It may have become a pipe.


@contextmanager
def temporary_folder(kind: str) -> Iterator[Path]:
    """A folder for a while, locked while it is in use; those of `kind` that killed processes left are removed.

    Raises:
        GantkError: There is no place for one, or it became full.
    """
    place, prefix = temporary_place(), f"gantk-{kind}-"
    for left in place.glob(f"{prefix}*"):
        with suppress(OSError):  # Somebody else's, or gone meanwhile.
            if is_abandoned(left):
                shutil.rmtree(left, ignore_errors=True)
    # Processes that were ended with us may still be writing: what they leave is removed later.
    folder = tempfile.TemporaryDirectory(prefix=prefix, dir=place, ignore_cleanup_errors=True)
    try:
        with folder as name, locked(Path(name)):
            yield Path(name)
    except OSError as error:
        if error.errno not in _NO_ROOM:
            raise
        with named_errors(place, "write temporary files in", ANOTHER_PLACE):
            raise


def temporary_place() -> Path:
    """The folder in which the system has temporary files.

    Raises:
        GantkError: There is none.
    """
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError as error:
        raise GantkError(
            "there is no place for temporary files: none is writable and has room", hint=ANOTHER_PLACE
        ) from error


@contextmanager
def locked(folder: Path, busy: GantkError | None = None) -> Iterator[None]:
    """Hold a folder's lock.

    Args:
        folder: The folder, which is there.
        busy: Raised where somebody else holds it; by default he is waited for.
    """
    with named_errors(folder, "lock"):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if busy is None else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            assert busy is not None
            raise busy from None
        yield
    finally:
        os.close(descriptor)


def is_abandoned(path: Path) -> bool:
    """Whether whoever made a file or folder, to hold its lock while at work on it, holds it no more."""
    return time.time() - path.stat().st_mtime > _NOT_YET_LOCKED_S and not is_locked(path)


def is_locked(path: Path) -> bool:
    """Whether anybody holds the lock of a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

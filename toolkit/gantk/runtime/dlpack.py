# SPDX-License-Identifier: Apache-2.0
"""DLPack's capsules, read and made, old ones and those with a version (dmlc/dlpack, ``dlpack.h`` 1.0)."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gantk.errors import GantkError

CUDA = 2
CUDA_MANAGED = 13
READ_ONLY = 1
VERSION = (1, 0)

_NAMES = {False: b"dltensor", True: b"dltensor_versioned"}
_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 6: "bool"}


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("ordinal", ctypes.c_int32))


class _DType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))

    def __str__(self) -> str:
        name = f"{_CODES.get(self.code, f'DLPack type {self.code} of ')}{self.bits}".replace("bool8", "bool")
        return name if self.lanes == 1 else f"{name} x {self.lanes}"


class Tensor(ctypes.Structure):
    """`DLTensor`. The address of its first element is `data` + `byte_offset`; strides count elements."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Managed(ctypes.Structure):
    _fields_ = (("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class _ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    )


def _python(name: str, result: Any, *arguments: Any) -> Callable[..., Any]:
    return ctypes.PYFUNCTYPE(result, *arguments)((name, ctypes.pythonapi))


_new = _python("PyCapsule_New", ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
_is_valid = _python("PyCapsule_IsValid", ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)
_pointer = _python("PyCapsule_GetPointer", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)


def read(capsule: object) -> tuple[Tensor, int]:
    """The tensor in a capsule and its flags; both hold as long as the capsule.

    The capsule is not consumed: when the last reference to it goes, it gives its memory back by itself.

    Raises:
        GantkError: It is no capsule of DLPack, was consumed, or is of a later major version.
    """
    address = id(capsule)
    if _is_valid(address, _NAMES[True]):
        managed = _ManagedVersioned.from_address(_pointer(address, _NAMES[True]))
        if managed.major != VERSION[0]:
            raise GantkError(f"a capsule is of DLPack {managed.major}.{managed.minor}; version 1 is wanted")
        return managed.tensor, int(managed.flags)
    if _is_valid(address, _NAMES[False]):
        return _Managed.from_address(_pointer(address, _NAMES[False])).tensor, 0
    raise GantkError(f"a {type(capsule).__name__} is no DLPack capsule that is still full")


def make(owner: object, lent: Lent, *, versioned: bool) -> object:
    """A capsule over CUDA memory that keeps `owner` until its consumer, or its own end, lets it go.

    Args:
        owner: Owns the memory.
        lent: The memory.
        versioned: Whether the consumer asks for DLPack 1.
    """
    ndim, dtype = len(lent.shape), lent.dtype
    managed = _ManagedVersioned(major=VERSION[0], minor=VERSION[1]) if versioned else _Managed()
    sizes = (ctypes.c_int64 * (2 * ndim))(*lent.shape, *lent.strides)
    first = ctypes.cast(sizes, ctypes.POINTER(ctypes.c_int64))
    second = ctypes.cast(ctypes.byref(sizes, 8 * ndim), ctypes.POINTER(ctypes.c_int64))
    code = next(code for code, name in _CODES.items() if dtype.rstrip("0123456789") == name)
    bits = int(dtype.lstrip("abcdefghijklmnopqrstuvwxyz") or 8)  # bool's name has none.
    managed.tensor = Tensor(
        lent.address, _Device(CUDA, lent.ordinal), ndim, _DType(code, bits, 1), first, second, 0
    )
    managed.deleter = ctypes.cast(_DELETE, ctypes.c_void_p)
    where = ctypes.addressof(managed)
    _held[where] = (managed, sizes, owner)
    return _new(where, _NAMES[versioned], ctypes.cast(_END, ctypes.c_void_p))


@dataclass(frozen=True)
class Lent:
    """CUDA memory as a capsule tells of it.

    Args:
        address: Of the first element.
        ordinal: Of the GPU.
        dtype: E.g. ``float32``, ``bfloat16``, ``uint8`` or ``bool``.
        shape: In elements.
        strides: In elements.
    """

    address: int
    ordinal: int
    dtype: str
    shape: Sequence[int]
    strides: Sequence[int]


_held: dict[int, tuple[object, object, object]] = {}
"""What consumers of our capsules still hold, by the address of the managed tensor."""


def _delete(managed: int) -> None:
    """The deleter that a consumer calls, from whichever thread."""
    _held.pop(managed, None)


def _end(capsule: int) -> None:
    """The capsule's own end: what was consumed has another name by then, and is its consumer's."""
    for name in _NAMES.values():
        if _is_valid(capsule, name):
            _held.pop(_pointer(capsule, name), None)


_DELETE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(_delete)
_END = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(_end)
# A tensor of torch may outlive this module at the interpreter's end, and calls the deleter even then.
for _callback in (_DELETE, _END):
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(_callback))

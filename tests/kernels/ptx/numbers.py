# SPDX-License-Identifier: Apache-2.0
"""Number formats and roundings that numpy lacks: bf16, tf32, a fused multiply-add that rounds once.

`ml_dtypes` is not used: a few integer operations are as short, and keep the tests free of one more package.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]


def bf16_to_f32(bits: Array) -> Array:
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def f32_to_bf16(value: Array, rounding: str = "rn") -> Array:
    """Bits of `value` in bf16, rounded to nearest even (`rn`) or toward zero (`rz`); NaN becomes 0x7FFF."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    half = np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    rounded = bits + half if rounding == "rn" else bits
    return np.where(np.isnan(value), np.uint16(0x7FFF), (rounded >> np.uint32(16)).astype(np.uint16))


def f64_to_bf16(value: Array) -> Array:
    """As `f32_to_bf16` from float64, rounding once: odd rounding to float32 first keeps ties apart."""
    return f32_to_bf16(round_to_odd_f32(value))


def round_to_odd_f32(value: Array) -> Array:
    """float64 to float32, an inexact result getting an odd last bit, so that a second rounding is right."""
    near = value.astype(np.float32)
    back = near.astype(np.float64)
    bits = near.view(np.int32).copy()
    inexact = (back != value) & np.isfinite(back) & np.isfinite(value)
    fix = inexact & (bits & 1 == 0)
    away = np.abs(back) < np.abs(value)
    bits[fix] += np.where(away, 1, -1).astype(np.int32)[fix]
    return bits.view(np.float32)


def f32_to_tf32(value: Array, rounding: str = "rna") -> Array:
    """Bits of float32 `value` kept to 10 bits of mantissa: `rna` ties away from zero, `rn` to even, `rz` cut."""
    bits = np.ascontiguousarray(value, np.float32).view(np.uint32)
    finite = (bits & np.uint32(0x7F800000)) != np.uint32(0x7F800000)
    if rounding == "rna":
        rounded = bits + np.uint32(0x1000)
    elif rounding == "rn":
        rounded = bits + np.uint32(0xFFF) + ((bits >> np.uint32(13)) & np.uint32(1))
    else:
        rounded = bits
    return np.where(finite, rounded & np.uint32(0xFFFFE000), bits)


def tf32_operand(bits: Array) -> Array:
    """What a tensor core reads of a tf32 operand: the low 13 bits do not count."""
    return (bits & np.uint32(0xFFFFE000)).view(np.float32)


def _exact_sum(product: Array, addend: Array) -> tuple[Array, Array]:
    """float64 sum and its error (Knuth's two-sum)."""
    total = product + addend
    other = total - product
    return total, (product - (total - other)) + (addend - other)


def _odd_sum(product: Array, addend: Array) -> Array:
    """The float64 sum rounded to odd, from which one rounding to a narrower format is correct."""
    total, error = _exact_sum(product, addend)
    bits = total.view(np.int64).copy()
    fix = (error != 0) & (bits & 1 == 0) & np.isfinite(total)
    outward = (error > 0) == (total > 0)
    bits[fix] += np.where(outward, 1, -1)[fix]
    return bits.view(np.float64)


_TIE = np.uint64(0x10000000)
_BELOW = np.uint64(0x1FFFFFFF)
_SMALL = 2.0**-125


def fma_f32(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float32 with a single rounding.

    The product is exact in float64; only a sum that lands half-way between two float32 (or among the subnormals)
    can round twice, and those rare sums are done again with odd rounding.
    """
    product = np.multiply(a, b, dtype=np.float64)
    total = product + c
    near = total.astype(np.float32)
    odd = (total.view(np.uint64) & _BELOW) == _TIE
    odd |= np.abs(total) < _SMALL
    if odd.any():
        wide = np.broadcast_to(np.asarray(c, np.float64), product.shape)
        near[odd] = _odd_sum(product[odd], wide[odd]).astype(np.float32)
    return near


def fma_f16(a: Array, b: Array, c: Array) -> Array:
    """a * b + c of float16 with one rounding: product exact in float64, sum rounded to odd, then once more."""
    product = np.multiply(a, b, dtype=np.float64)
    return _odd_sum(product, np.broadcast_to(np.asarray(c, np.float64), product.shape)).astype(np.float16)


def fma_bf16(a: Array, b: Array, c: Array) -> Array:
    """Bits of a * b + c of bf16 operands given as float32."""
    product = np.multiply(a, b, dtype=np.float64)
    return f64_to_bf16(_odd_sum(product, np.broadcast_to(np.asarray(c, np.float64), product.shape)))


def directed(a: Array, b: Array, c: Array, rounding: str) -> Array:
    """float32 a * b + c rounded down (`rm`), up (`rp`) or toward zero (`rz`)."""
    product = np.multiply(a, b, dtype=np.float64)
    exact = _odd_sum(product, np.broadcast_to(np.asarray(c, np.float64), product.shape))
    return round_f32(exact, rounding)


def round_f32(exact: Array, rounding: str) -> Array:
    near = exact.astype(np.float32)
    wide = near.astype(np.float64)
    if rounding == "rm":
        return np.where(wide > exact, np.nextafter(near, np.float32(-np.inf)), near)
    if rounding == "rp":
        return np.where(wide < exact, np.nextafter(near, np.float32(np.inf)), near)
    if rounding == "rz":
        return np.where(np.abs(wide) > np.abs(exact), np.nextafter(near, np.float32(0)), near)
    return near


def flush(value: Array) -> Array:
    """Subnormal float32 to zero of the same sign (`.ftz`)."""
    small = np.abs(value) < np.float32(2.0**-126)
    return np.where(small, np.copysign(np.float32(0), value), value)

# SPDX-License-Identifier: Apache-2.0
"""Snippets of plain arithmetic, memory and warps, with what numpy says that they give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ptx.numbers import bf16_to_f32, f32_to_bf16
from snippets import Array, Snippet

RNG = np.random.default_rng(4)
N = 128
WORDS = RNG.integers(0, 2**32, (2, N), np.uint32)
WORDS[:, :8] = [[0, 1, 2**31, 2**32 - 1, 2**31 - 1, 5, 0, 7], [1, 0, 2**32 - 1, 2**31, 1, 33, 31, 2**32 - 5]]
LONGS = RNG.integers(0, 2**64, (2, N), np.uint64)
LONGS[1, ::3] >>= np.uint64(40)
FLOATS = (RNG.standard_normal((3, N)) * 10.0 ** RNG.integers(-3, 4, (3, N))).astype(np.float32)
FLOATS[:, :6] = [
    [np.inf, np.nan, -0.0, 1e-42, 3e38, 2.5],
    [1, 2, 0.0, 1, 3e38, -1.5],
    [-1, 1, 1, 1e-45, 1, 3.5],
]


def _words(expression: str) -> str:
    return (
        "const u32 a = ((const u32*)p.in[0])[t], b = ((const u32*)p.in[1])[t]; const int s = a, r = b;"
        f"((u32*)p.out[0])[t] = {expression};"
    )


def _asm(text: str, inputs: str) -> str:
    return f'[&] {{ u32 d; asm("{text}" : "=r"(d) : {inputs}); return d; }}()'


def _python(function: object) -> Array:
    """A Python function of two unsigned words, on all of them."""
    return np.array([function(int(a), int(b)) % 2**32 for a, b in WORDS.T], np.uint32)  # type: ignore[operator]


def _signed(value: int) -> int:
    return value - 2**32 if value >= 2**31 else value


def _bfe(a: int, start: int, length: int, signed: bool) -> int:
    value = (a >> start) & ((1 << length) - 1)
    if signed and length and a >> min(start + length - 1, 31) & 1:
        value -= 1 << length
        if start + length > 32:
            value = (_signed(a) >> start) & ((1 << length) - 1)
    return value


def _prmt(a: int, b: int, selector: int) -> int:
    data = (a | b << 32).to_bytes(8, "little")
    picked = [(data[selector >> 4 * i & 7], selector >> 4 * i & 8) for i in range(4)]
    return int.from_bytes(bytes(0xFF * (byte >> 7) if sign else byte for byte, sign in picked), "little")


def integers() -> Iterator[Snippet]:
    def truncated(a: int, b: int) -> int:
        return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)

    table = {
        "brev": ("__brev(a)", lambda a, b: int(f"{a:032b}"[::-1], 2)),
        "clz": ("__clz(a)", lambda a, b: 32 - a.bit_length()),
        "popc": ("__popc(a)", lambda a, b: a.bit_count()),
        "ffs": ("__ffs(a)", lambda a, b: (a & -a).bit_length()),
        "mulhi": ("__mulhi(s, r)", lambda a, b: _signed(a) * _signed(b) >> 32),
        "umulhi": ("__umulhi(a, b)", lambda a, b: a * b >> 32),
        "shl": ("b < 40 ? a << 3 : a << 5", lambda a, b: a << (3 if b < 40 else 5)),
        "shl_asm": (_asm("shl.b32 %0, %1, %2;", '"r"(a), "r"(b % 64)'), lambda a, b: a << b % 64),
        "shr_asm": (_asm("shr.s32 %0, %1, %2;", '"r"(a), "r"(b % 64)'), lambda a, b: _signed(a) >> b % 64),
        "funnel_left": ("__funnelshift_l(a, b, a >> 3)", lambda a, b: (b << 32 | a) << (a >> 3) % 32 >> 32),
        "funnel_right": ("__funnelshift_rc(a, b, a % 50)", lambda a, b: (b << 32 | a) >> min(a % 50, 32)),
        "bfe_u": (_asm("bfe.u32 %0, %1, 5, 9;", '"r"(a)'), lambda a, b: _bfe(a, 5, 9, False)),
        "bfe_s": (_asm("bfe.s32 %0, %1, 5, 9;", '"r"(a)'), lambda a, b: _bfe(a, 5, 9, True)),
        "bfi": (_asm("bfi.b32 %0, %1, %2, 7, 11;", '"r"(a), "r"(b)'),
                lambda a, b: b & ~(0x7FF << 7) | (a & 0x7FF) << 7),
        "prmt": ("__byte_perm(a, b, 0x7240)", lambda a, b: _prmt(a, b, 0x7240)),
        "prmt_sign": (_asm("prmt.b32 %0, %1, %2, 0xF2C1;", '"r"(a), "r"(b)'), lambda a, b: _prmt(a, b, 0xF2C1)),
        "lop3": (_asm("lop3.b32 %0, %1, %2, %3, 0xD2;", '"r"(a), "r"(b), "r"(a >> 7)'),
                 lambda a, b: sum((0xD2 >> (4 * (a >> i & 1) + 2 * (b >> i & 1) + (a >> 7 >> i & 1)) & 1) << i
                                  for i in range(32))),
        "minmax": ("min(s, r) ^ max(a, b)", lambda a, b: min(_signed(a), _signed(b)) ^ max(a, b)),
        "divide": ("b ? a / b : 9u", lambda a, b: a // b if b else 9),
        "divide_signed": ("r && r != -1 ? s / r + s % r : 9",
                          lambda a, b: 9 if b in (0, 2**32 - 1) else (q := truncated(_signed(a), _signed(b)))
                          + _signed(a) - q * _signed(b)),
        "mad_wide": ("u32((u64)a * b + a >> 17)", lambda a, b: (a * b + a) >> 17),
        "mad_low": ("a * b + 7 * b", lambda a, b: a * b + 7 * b),
        "select": ("s < r ? a : b", lambda a, b: a if _signed(a) < _signed(b) else b),
        "bytes": ("u32((u8)a) * 3 + u32((signed char)b)", lambda a, b: (a & 255) * 3 + (b & 255) - 256 * (b >> 7 & 1)),
        "dual": (_asm("{.reg .pred q, r; setp.lt.and.u32 q|r, %1, %2, 1; selp.u32 %0, 3, 4, q; @r add.u32 %0, %0, 8;}",
                      '"r"(a), "r"(b)'), lambda a, b: 3 if a < b else 12),
    }  # fmt: skip
    for name, (expression, function) in table.items():
        yield Snippet(name, _words(expression), (WORDS[0], WORDS[1]), (_python(function),), block=N)
    longs = "const u64 a = ((const u64*)p.in[0])[t], b = ((const u64*)p.in[1])[t] | 1; ((u64*)p.out[0])[t] = "
    a, b = LONGS[0], LONGS[1] | np.uint64(1)
    high = np.array([int(x) * int(y) >> 64 for x, y in zip(a, b, strict=True)], np.uint64)
    yield Snippet("long_divide", longs + "a / b + a % b;", (LONGS[0], LONGS[1]), (a // b + a % b,), block=N)
    yield Snippet("long_high", longs + "__umul64hi(a, b);", (LONGS[0], LONGS[1]), (high,), block=N)
    yield Snippet(
        "long_shift", longs + "a >> (b & 63);", (LONGS[0], LONGS[1]), (a >> (b & np.uint64(63)),), block=N
    )


def _exact_fma(a: float, b: float, c: float) -> np.float32:
    """Once rounded, by rational arithmetic: the reference of references."""
    from fractions import Fraction

    if not all(np.isfinite(x) for x in (a, b, c)):
        return np.float32(np.float64(a) * b + c)
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    near = np.float32(float(exact))
    best = [near, np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))]
    finite = [x for x in best if np.isfinite(x)]
    if not np.isfinite(near):
        return near
    return min(finite, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.uint32)) & 1))


def floats() -> Iterator[Snippet]:
    load = "const float a = ((const float*)p.in[0])[t], b = ((const float*)p.in[1])[t], c = ((const float*)p.in[2])[t];"
    a, b, c = FLOATS
    ties = np.float32(1 + 2.0**-12) * np.ones(N, np.float32)
    inputs = (a, b, c)
    with np.errstate(all="ignore"):
        fused = np.array([_exact_fma(float(x), float(y), float(z)) for x, y, z in FLOATS.T])
        yield Snippet("fma", load + "((float*)p.out[0])[t] = fmaf(a, b, c);", inputs, (fused,), block=N)
        # (1 + 2^-12)^2 + a term below float64's last place lies beside a tie of float32: rounding twice goes wrong
        tiny = np.float32(2.0**-60) * np.where(np.arange(N) % 2, 1, -1).astype(np.float32)
        beside = np.array([_exact_fma(float(x), float(x), float(y)) for x, y in zip(ties, tiny, strict=True)])
        yield Snippet(
            "fma_tie", load + "((float*)p.out[0])[t] = fmaf(a, b, c);", (ties, ties, tiny), (beside,), block=N
        )
        sums = (a + b) * c - a / b
        yield Snippet("plain", load + "((float*)p.out[0])[t] = __fsub_rn(__fmul_rn(a + b, c), a / b);", inputs,
                      (sums,), block=N)  # fmt: skip
        less = np.where(a < b, 1, 0) | np.where(np.isnan(a), 2, 0) | np.where(~(a >= c), 4, 0)
        body = "((int*)p.out[0])[t] = (a < b) | (a != a) << 1 | (!(a >= c)) << 2;"
        yield Snippet("compare", load + body, inputs, (less.astype(np.int32),), block=N)
        yield Snippet("extremes", load + "((float*)p.out[0])[t] = fminf(a, fmaxf(b, c));", inputs,
                      (np.fmin(a, np.fmax(b, c)),), block=N)  # fmt: skip
        yield Snippet(
            "root", load + "((float*)p.out[0])[t] = sqrtf(fabsf(a));", inputs, (np.sqrt(np.abs(a)),), block=N
        )
        wide = np.float64(a) * np.float64(b) - np.float64(c)
        yield Snippet("double", load + "((double*)p.out[0])[t] = __dsub_rn(__dmul_rn(a, b), c);", inputs, (wide,),
                      block=N)  # fmt: skip
    inside = np.clip(np.nan_to_num(a, nan=0.0, posinf=2**31, neginf=-(2**31)), -(2.0**31), 2.0**31 - 1)
    for name, function, rounded in (("rn", "__float2int_rn", np.rint), ("rz", "__float2int_rz", np.trunc),
                                    ("rd", "__float2int_rd", np.floor), ("ru", "__float2int_ru", np.ceil)):  # fmt: skip
        expected = np.clip(rounded(inside.astype(np.float64)), -(2**31), 2**31 - 1).astype(np.int32)
        expected[1] = 0
        yield Snippet(
            f"to_int_{name}", load + f"((int*)p.out[0])[t] = {function}(a);", inputs, (expected,), block=N
        )
    whole = WORDS[0].view(np.int32).astype(np.float32)
    yield Snippet(
        "from_int", "((float*)p.out[0])[t] = ((const int*)p.in[0])[t];", (WORDS[0],), (whole,), block=N
    )


def halves() -> Iterator[Snippet]:
    a = (RNG.standard_normal(N) * 10.0 ** RNG.integers(-6, 5, N)).astype(np.float32)
    ties = np.float32(1) + np.arange(N, dtype=np.float32) * np.float32(2.0**-12)
    for name, data in (("values", a), ("ties", ties)):
        load = "const float a = ((const float*)p.in[0])[t]; u16 d;"
        store = "((u16*)p.out[0])[t] = d;"
        half = load + 'asm("cvt.rn.f16.f32 %0, %1;" : "=h"(d) : "f"(a));' + store
        yield Snippet(f"to_f16_{name}", half, (data,), (data.astype(np.float16).view(np.uint16),), block=N)
        brain = load + 'asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(d) : "f"(a));' + store
        yield Snippet(f"to_bf16_{name}", brain, (data,), (_bf16(data),), block=N)
        pair = ('const float a = ((const float*)p.in[0])[t]; u32 d;'
                'asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(a), "f"(-a)); ((u32*)p.out[0])[t] = d;')  # fmt: skip
        both = _bf16(data).astype(np.uint32) << np.uint32(16) | _bf16(-data)
        yield Snippet(f"to_bf16x2_{name}", pair, (data,), (both,), block=N)
        tf32 = ('const float a = ((const float*)p.in[0])[t]; u32 d;'
                'asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(d) : "f"(a)); ((u32*)p.out[0])[t] = d;')  # fmt: skip
        nearest = (data.view(np.uint32) + np.uint32(0x1000)) & np.uint32(0xFFFFE000)
        yield Snippet(f"to_tf32_{name}", tf32, (data,), (nearest,), block=N)
    x, y, z = (RNG.standard_normal((3, N, 2)) * 4).astype(np.float16)
    wide = x.astype(np.float64) * y + z
    brains = [f32_to_bf16(v.astype(np.float32)) for v in (x, y, z)]
    a64, b64, c64 = (bf16_to_f32(v).astype(np.float64) for v in brains)
    for kind, (first, second, third), expected in (
        ("f16x2", (x, y, z), wide.astype(np.float16)),
        ("bf16x2", brains, _bf16((a64 * b64 + c64).astype(np.float32))),
    ):
        words = [np.ascontiguousarray(v).view(np.uint32).reshape(-1) for v in (first, second, third)]
        body = (
            "u32 d; asm(\"fma.rn." + kind + " %0, %1, %2, %3;\" : \"=r\"(d) : \"r\"(((const u32*)p.in[0])[t]), "
            "\"r\"(((const u32*)p.in[1])[t]), \"r\"(((const u32*)p.in[2])[t])); ((u32*)p.out[0])[t] = d;"
        )  # fmt: skip
        answer = np.ascontiguousarray(expected).view(np.uint32).reshape(-1)
        yield Snippet(f"fma_{kind}", body, tuple(words), (answer,), block=N)


def _bf16(value: Array) -> Array:
    """By way of ml_dtypes, which the interpreter does not use."""
    import ml_dtypes

    return value.astype(ml_dtypes.bfloat16).view(np.uint16)


def memory() -> Iterator[Snippet]:
    data = RNG.integers(0, 2**32, 4 * N, np.uint32)
    body = """
      __shared__ uint4 tile[128]; __shared__ u8 bytes[128]; __shared__ u16 shorts[128];
      tile[t] = ((const uint4*)p.in[0])[t]; bytes[t] = t * 7; shorts[t] = t * 1234;
      __syncthreads();
      const uint2 two = ((const uint2*)tile)[2 * (127 - t) + 1];
      ((uint2*)p.out[0])[t] = make_uint2(two.x + bytes[t ^ 5], two.y + shorts[t ^ 77]);
    """
    t = np.arange(N)
    pairs = data.reshape(N, 4)[::-1, 2:] + np.stack([(t ^ 5) * 7 & 255, (t ^ 77) * 1234 & 65535], 1).astype(
        np.uint32
    )
    yield Snippet("widths", body, (data,), (pairs,), block=N)
    local = "u32 a[8]; for (int i = 0; i < 8; ++i) a[i] = ((const u32*)p.in[0])[i] + t; ((u32*)p.out[0])[t] = a[t * 5 % 8];"
    yield Snippet("local", local, (data[:8],), (data[t * 5 % 8] + t.astype(np.uint32),), block=N)
    table = "__constant__ u32 table[4] = {7, 11, 13, 17}; __device__ u32 counter;"
    last = """
      __shared__ bool last; __shared__ u32 sum;
      u32* parts = (u32*)p.out[1];
      if (t == 0) { parts[blockIdx.x] = table[blockIdx.x % 4] * (blockIdx.x + 1); __threadfence();
        last = atomicInc(&counter, gridDim.x - 1) == gridDim.x - 1; __threadfence(); sum = 0; }
      __syncthreads();
      if (last) { if (t < gridDim.x) atomicAdd(&sum, parts[t]); __syncthreads(); if (t == 0) *(u32*)p.out[0] = sum; }
    """
    parts = np.array([[7, 11, 13, 17][i % 4] * (i + 1) for i in range(5)], np.uint32)
    yield Snippet(
        "last_block", last, (), (parts.sum(keepdims=True, dtype=np.uint32), parts), grid=5, outside=table
    )
    switch = """
      u32 v = t; switch (t % 11) { case 0: v = t * 3; break; case 1: v ^= 99; break; case 2: v += v >> 1; break;
        case 3: v = __brev(v); break; case 4: v = v * v; break; case 5: v = ~v; break; case 6: v = v << 4; break;
        case 7: v -= 1000; break; case 8: v = v % 5; break; case 9: v = 1; break; }
      ((u32*)p.out[0])[t] = v;
    """
    functions = [lambda v: v * 3, lambda v: v ^ 99, lambda v: v + (v >> 1), lambda v: int(f"{v:032b}"[::-1], 2),
                 lambda v: v * v, lambda v: ~v, lambda v: v << 4, lambda v: v - 1000, lambda v: v % 5, lambda v: 1,
                 lambda v: v]  # fmt: skip
    chosen = np.array([functions[i % 11](i) % 2**32 for i in range(N)], np.uint32)
    yield Snippet("switch", switch, (), (chosen,), block=N)
    copy = r"""
      __shared__ __align__(16) u32 tile[512];
      const u32 n = t % 3 == 0 ? 16 : t % 3 == 1 ? 6 : 0;
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\ncp.async.commit_group;\n"
          :: "r"(shared_address(tile + 4 * t)), "l"((const uint4*)p.in[0] + t), "r"(n) : "memory");
      asm volatile("cp.async.wait_group 0;" ::: "memory");
      __syncthreads();
      ((uint4*)p.out[0])[t] = ((const uint4*)tile)[127 - t];
    """
    raw = data.view(np.uint8).reshape(N, 16).copy()
    for i in range(N):
        raw[i, (16, 6, 0)[i % 3] :] = 0
    yield Snippet("cp_async", copy, (data,), (np.ascontiguousarray(raw[::-1]).view(np.uint32),), block=N)


def warps() -> Iterator[Snippet]:
    lanes = np.arange(64)
    values = RNG.integers(0, 2**32, 64, np.uint32)
    for name, call, source in (
        ("up", "__shfl_up_sync(~0u, v, 3)", np.where(lanes % 32 >= 3, lanes - 3, lanes)),
        ("down", "__shfl_down_sync(~0u, v, 5, 16)", np.where(lanes % 16 + 5 < 16, lanes + 5, lanes)),
        ("xor", "__shfl_xor_sync(~0u, v, 9)", lanes ^ 9),
        ("index", "__shfl_sync(~0u, v, t * 7, 8)", lanes // 8 * 8 + lanes * 7 % 8),
    ):
        body = f"const u32 v = ((const u32*)p.in[0])[t]; ((u32*)p.out[0])[t] = {call};"
        yield Snippet(f"shfl_{name}", body, (values,), (values[source],), block=64)
    votes = """
      const u32 v = ((const u32*)p.in[0])[t]; u32* out = (u32*)p.out[0];
      out[t] = __ballot_sync(~0u, v & 1) + __any_sync(~0u, v < 100) * 3 + __all_sync(~0u, v > 0) * 5;
      out[64 + t] = __reduce_max_sync(~0u, v) - __reduce_add_sync(~0u, v) + __reduce_xor_sync(~0u, v);
      out[128 + t] = 0;
      if (v & 2) out[128 + t] = __popc(__activemask());
    """
    rows = values.reshape(2, 32)
    ballot = (rows % 2 * (1 << np.arange(32, dtype=np.uint64))).sum(1).astype(np.uint32)
    first = ballot + (rows < 100).any(1) * np.uint32(3) + (rows > 0).all(1) * np.uint32(5)
    second = rows.max(1) - rows.sum(1, dtype=np.uint32) + np.bitwise_xor.reduce(rows, 1)
    third = np.where(rows & 2, (rows >> 1 & 1).sum(1, dtype=np.uint32)[:, None], 0)
    expected = np.concatenate([np.repeat(first, 32), np.repeat(second, 32), third.reshape(-1)]).astype(
        np.uint32
    )
    yield Snippet("votes", votes, (values,), (expected,), block=64)
    named = """
      __shared__ u32 box[64];
      if (t < 64) { box[t] = t * t; asm volatile("bar.arrive 1, 128;" ::: "memory"); }
      else { asm volatile("bar.sync 1, 128;" ::: "memory"); ((u32*)p.out[0])[t - 64] = box[127 - t]; }
      ((u32*)p.out[1])[t] = __syncthreads_count(t % 3 == 0);
    """
    count = np.full(N, 43, np.uint32)
    yield Snippet("named_barriers", named, (), ((lanes[::-1] ** 2).astype(np.uint32), count), block=N)


def matrices() -> Iterator[Snippet]:
    """Small whole numbers, so that every order of sums gives the same bits."""
    for shape, kind, arch in (("m16n8k8", "f16", "sm_75"), ("m16n8k16", "f16", "sm_80"), ("m16n8k16", "bf16", "sm_80"),
                              ("m16n8k8", "bf16", "sm_80"), ("m16n8k8", "tf32", "sm_80"),
                              ("m16n8k4", "tf32", "sm_80")):  # fmt: skip
        depth = int(shape.split("k")[1])
        a, b = RNG.integers(-8, 9, (16, depth)), RNG.integers(-8, 9, (8, depth))
        c = RNG.integers(-99, 99, (16, 8)).astype(np.float32)
        item = 4 if kind == "tf32" else 2
        count_a, count_b = 16 * depth * item // 128, 8 * depth * item // 128
        pack = {"f16": lambda x: x.astype(np.float16), "bf16": lambda x: _bf16(x.astype(np.float32)),
                "tf32": lambda x: x.astype(np.float32)}[kind]  # fmt: skip
        per = 1 if kind == "tf32" else 2  # numbers of a register, and columns that it moves on by
        registers = (
            f"u32 a[{count_a}], b[{count_b}]; float d[4];"
            f"for (int i = 0; i < {count_a}; ++i)"
            f" a[i] = ((const u32*)p.in[0])[((g + 8 * (i & 1)) * {depth} + q * {per} + 4 * {per} * (i >> 1)) / {per}];"
            f"for (int i = 0; i < {count_b}; ++i)"
            f" b[i] = ((const u32*)p.in[1])[(g * {depth} + q * {per} + 4 * {per} * i) / {per}];"
        )
        operands_a = ", ".join(f"%{4 + i}" for i in range(count_a))
        operands_b = ", ".join(f"%{4 + count_a + i}" for i in range(count_b))
        inputs = ", ".join(
            [f'"r"(a[{i}])' for i in range(count_a)] + [f'"r"(b[{i}])' for i in range(count_b)]
        )
        body = (
            "const u32 g = t / 4, q = t % 4;"
            + registers
            + "for (int i = 0; i < 4; ++i) d[i] = ((const float*)p.in[2])[(g + 8 * (i >> 1)) * 8 + q * 2 + (i & 1)];"
            + f'asm volatile("mma.sync.aligned.{shape}.row.col.f32.{kind}.{kind}.f32 {{%0, %1, %2, %3}}, '
            f'{{{operands_a}}}, {{{operands_b}}}, {{%0, %1, %2, %3}};" : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])'
            f" : {inputs});"
            + "for (int i = 0; i < 4; ++i) ((float*)p.out[0])[(g + 8 * (i >> 1)) * 8 + q * 2 + (i & 1)] = d[i];"
        )
        expected = (a @ b.T + c).astype(np.float32)
        yield Snippet(
            f"mma_{shape}_{kind}", body, (np.asarray(pack(a)), np.asarray(pack(b)), c), (expected,), arch
        )
    tiles = RNG.integers(0, 2**16, (4, 8, 8), np.uint16)
    for transposed in (False, True):
        body = f"""
          __shared__ __align__(16) u16 tile[256];
          for (u32 i = t; i < 256; i += 32) tile[i] = ((const u16*)p.in[0])[i];
          __syncwarp();
          u32 d[4];
          asm volatile("ldmatrix.sync.aligned.m8n8.x4{".trans" if transposed else ""}.shared.b16 {{%0, %1, %2, %3}}, [%4];"
              : "=r"(d[0]), "=r"(d[1]), "=r"(d[2]), "=r"(d[3]) : "r"(shared_address(tile + 8 * t)));
          for (int i = 0; i < 4; ++i) ((u32*)p.out[0])[32 * i + t] = d[i];
        """
        source = np.ascontiguousarray(tiles.swapaxes(1, 2)) if transposed else tiles
        yield Snippet(
            f"ldmatrix{'_trans' if transposed else ''}", body, (tiles,), (source.view(np.uint32).reshape(-1),)
        )


SNIPPETS = [*integers(), *floats(), *halves(), *memory(), *warps(), *matrices()]

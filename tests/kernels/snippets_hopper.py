# SPDX-License-Identifier: Apache-2.0
"""Snippets for sm_90a: mbarriers, bulk copies, tiles of tensor maps, wgmma in all operand layouts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ptx.numbers import f32_to_bf16
from snippets import Array, Map, Snippet

RNG = np.random.default_rng(90)

DEVICE = r"""
extern __shared__ __align__(1024) u8 memory[];
__device__ __forceinline__ void make(u64* b, u32 n) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" :: "r"(shared_address(b)), "r"(n));
}
__device__ __forceinline__ void expect(u64* b, u32 n) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
      :: "r"(shared_address(b)), "r"(n) : "memory");
}
__device__ __forceinline__ void arrive(u64* b) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" :: "r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void wait(u64* b, u32 parity) {
  asm volatile("{\n.reg .pred P;\nAGAIN:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 P, [%0], %1;\n@P bra DONE;\nbra AGAIN;\nDONE:\n}"
      :: "r"(shared_address(b)), "r"(parity) : "memory");
}
__device__ __forceinline__ void bulk(void* to, const void* from, u32 n, u64* b) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
      :: "r"(shared_address(to)), "l"(from), "r"(n), "r"(shared_address(b)) : "memory");
}
__device__ __forceinline__ void tile2(void* to, const void* map, u64* b, int x, int y) {
  asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4}], [%2];"
      :: "r"(shared_address(to)), "l"(map), "r"(shared_address(b)), "r"(x), "r"(y) : "memory");
}
__device__ __forceinline__ void tile3(void* to, const void* map, u64* b, int x, int y, int z) {
  asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
      "[%0], [%1, {%3, %4, %5}], [%2];"
      :: "r"(shared_address(to)), "l"(map), "r"(shared_address(b)), "r"(x), "r"(y), "r"(z) : "memory");
}
__device__ __forceinline__ void ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ __forceinline__ void proxy() { asm volatile("fence.proxy.async;" ::: "memory"); }
__device__ __forceinline__ void fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ __forceinline__ void settle() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(N) : "memory");
}
__device__ __forceinline__ u64 matrix(const void* p, u32 leading, u32 stride, u64 layout) {
  return u64((shared_address(p) & 0x3FFFF) >> 4) | u64(leading >> 4) << 16 | u64(stride >> 4) << 32 | layout << 62;
}
"""

PIPELINE = r"""
  u64* full = (u64*)(memory + 4096); u64* empty = full + 2;
  u32* out = (u32*)p.out[0];
  if (t == 0) { for (int i = 0; i < 2; ++i) { make(full + i, 1); make(empty + i, 4); } ready(); }
  __syncthreads();
  if (t >= 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (t == 128) for (u32 i = 0; i < 5; ++i) {
      wait(empty + i % 2, (i / 2 & 1) ^ 1);
      expect(full + i % 2, 512);
      bulk(memory + i % 2 * 512, (const u8*)p.in[0] + 512 * i, 512, full + i % 2);
    }
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 160;");
    u32 sum = 0;
    for (u32 i = 0; i < 5; ++i) {
      wait(full + i % 2, i / 2 & 1);
      sum += ((const u32*)(memory + i % 2 * 512))[t ^ 1];
      __syncwarp();
      if (t % 32 == 0) arrive(empty + i % 2);
    }
    out[t] = sum;
  }
"""


def pipeline() -> Snippet:
    """A producer thread and four consumer warps around a ring of two stages."""
    data = RNG.integers(0, 2**32, (5, 128), np.uint32)
    expected = data.sum(0, dtype=np.uint32)[np.arange(128) ^ 1]
    return Snippet(
        "pipeline", PIPELINE, (data,), (expected,), "sm_90a", block=256, shared=4096 + 64, outside=DEVICE
    )


TILE = r"""
  u64* bar = (u64*)(memory + 8192);
  if (t == 0) {
    make(bar, 1); ready(); expect(bar, %(bytes)d); %(call)s;
  }
  __syncthreads();
  wait(bar, 0);
  for (u32 i = t; i < %(bytes)d / 2; i += 128) ((u16*)p.out[0])[i] = ((const u16*)memory)[i];
"""


def swizzle(raw: Array, span: int) -> Array:
    """Bytes in order of the tile to their order in shared memory, written apart from the interpreter's."""
    out = np.zeros_like(raw)
    for place in range(0, len(raw), 16):
        row = place // 128
        moved = place ^ ((row % (span // 16)) * 16) if span else place
        out[moved : moved + 16] = raw[place : place + 16]
    return out


CORNERS = ((0, 0, 0), (-8, 3, 1), (16, 13, 2), (96, 0, 0))


def tiles() -> Iterator[Snippet]:
    """Boxes inside, across every border and wholly outside of a tensor, with each swizzle."""
    data = RNG.integers(1, 2**16, (3, 20, 48), np.uint16)  # (z, y, x)
    for span, width in ((128, 64), (64, 32), (32, 16), (0, 24)):
        for x, y, z in CORNERS:
            box = np.zeros((1, 8, width), np.uint16)
            for j in range(8):
                for i in range(width):
                    if 0 <= x + i < 48 and 0 <= y + j < 20 and 0 <= z < 3:
                        box[0, j, i] = data[z, y + j, x + i]
            raw = box.reshape(-1).view(np.uint8)
            body = TILE % {"bytes": len(raw), "call": f"tile3(memory, p.map, bar, {x}, {y}, {z})"}
            yield Snippet(
                f"tile_{span}_{x}_{y}_{z}", body, (data,), (swizzle(raw, span).view(np.uint16),), "sm_90a", block=128,
                shared=8192 + 16, outside=DEVICE,
                map=Map("float16", (48, 20, 3), (96, 1920), (width, 8, 1), span),
            )  # fmt: skip


def _product(columns: int, kind: str, a: str, b: str, tail: str) -> str:
    """Inline assembly of one wgmma on `float d[columns / 2]`."""
    count = columns // 2
    depth = 8 if kind == "tf32" else 16
    registers = ", ".join(f"%{i}" for i in range(count))
    outputs = ", ".join(f'"+f"(d[{i}])' for i in range(count))
    if a.startswith("{"):
        number = 4
        left, inputs = "{" + ", ".join(f"%{count + i}" for i in range(4)) + "}", a.strip("{}")
    else:
        number, left, inputs = 1, f"%{count}", f'"l"({a})'
    return (
        f'asm volatile("{{\\n.reg .pred q;\\nsetp.ne.b32 q, %{count + number + 1}, 0;\\n'
        f"wgmma.mma_async.sync.aligned.m64n{columns}k{depth}.f32.{kind}.{kind} {{{registers}}}, {left}, "
        f'%{count + number}, q, {tail};\\n}}" : {outputs} : {inputs}, "l"({b}), "r"(scale) : "memory");'
    )


def wgmma(
    kind: str, columns: int, transpose_a: bool, transpose_b: bool, from_registers: bool = False, steps: int = 4,
    pending: int = 0, span: int = 128,
) -> Snippet:  # fmt: skip
    """A (64, K) times B (columns, K) transposed, K of `steps` products, tiles swizzled over `span` bytes by threads."""
    item = 4 if kind == "tf32" else 2
    depth = 32 // item
    places = depth * steps
    a, b = (RNG.integers(-4, 5, (rows, places)).astype(np.float32) for rows in (64, columns))
    pack = {"tf32": lambda x: x.view(np.uint32), "bf16": f32_to_bf16, "f16": lambda x: x.astype(np.float16)}[
        kind
    ]
    layout = {128: 1, 64: 2, 32: 3}[span]
    parts, descriptors = [], []
    for matrix, transposed in ((a, transpose_a), (b, transpose_b)):
        tile, leading, stride, advance = _tiled(np.asarray(pack(matrix)), transposed, span)
        descriptors.append((sum(len(p) for p in parts), leading, stride, advance))
        parts.append(tile)
    flat = np.concatenate(parts)
    (at_a, lead_a, stride_a, step_a), (at_b, lead_b, stride_b, step_b) = descriptors
    tail = "1, 1" if kind == "tf32" else f"1, 1, {int(transpose_a)}, {int(transpose_b)}"
    left = f"matrix(memory + {at_a} + s * {step_a}, {lead_a}, {stride_a}, {layout})"
    right = f"matrix(memory + {at_b} + s * {step_b}, {lead_b}, {stride_b}, {layout})"
    load = ""
    if from_registers:
        tail = "1, 1" if kind == "tf32" else f"1, 1, {int(transpose_b)}"
        left = '{"r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3])}'
        unit = "u32" if kind == "tf32" else "u16"
        element = (
            f"((const {unit}*)p.in[1])[(t / 32 * 16 + t % 32 / 4 + 8 * (i & 1)) * {places} + s * {depth} + "
            + ("t % 4 + 4 * (i >> 1)]" if kind == "tf32" else "t % 4 * 2 + 8 * (i >> 1) + HALF]")
        )
        word = (
            element
            if kind == "tf32"
            else (f"u32({element.replace('HALF', '0')}) | u32({element.replace('HALF', '1')}) << 16")
        )
        load = f"u32 a[4]; for (int i = 0; i < 4; ++i) a[i] = {word};"
    body = f"""
      for (u32 i = t; i < {len(flat) // 4}; i += 128) ((u32*)memory)[i] = ((const u32*)p.in[0])[i];
      proxy(); __syncthreads();
      float d[{columns // 2}];
      for (int i = 0; i < {columns // 2}; ++i) d[i] = 7.f;
#pragma unroll
      for (int s = 0; s < {steps}; ++s) {{
        const int scale = s != 0; {load}
        fence();
        {_product(columns, kind, left, right, tail)}
        commit(); settle<{pending}>();
      }}
      settle<0>();
      for (int i = 0; i < {columns // 2}; ++i)
        ((float*)p.out[0])[(t / 32 * 16 + t % 32 / 4 + 8 * (i % 4 / 2)) * {columns} + i / 4 * 8 + t % 4 * 2 + i % 2]
            = d[i];
    """
    name = f"wgmma_{kind}_{columns}_{'t' if transpose_a else 'n'}{'t' if transpose_b else 'n'}_{span}"
    return Snippet(
        name + ("_registers" if from_registers else "") + (f"_pending{pending}" if pending else ""), body,
        (flat, np.asarray(pack(a))), (a @ b.T,), "sm_90a", block=128, shared=len(flat), outside=DEVICE,
    )  # fmt: skip


def _tiled(matrix: Array, transposed: bool, span: int) -> tuple[Array, int, int, int]:
    """A (rows, K) operand as bytes of shared memory; its leading and stride offsets and the step of one product."""
    item, (rows, places) = matrix.itemsize, matrix.shape
    wide = span // item  # elements of one swizzled row
    if not transposed:  # (K / wide) panels of (rows, wide); rows are span bytes
        assert places <= wide
        panel = np.zeros((rows, wide), matrix.dtype)
        panel[:, :places] = matrix
        raw, leading, stride, step = panel.reshape(-1).view(np.uint8), 16, 8 * span, 32
    else:  # atoms of (8 places, wide rows): rows fastest, then places
        atoms = matrix.reshape(rows // wide, wide, places // 8, 8).transpose(0, 2, 3, 1)
        raw = np.ascontiguousarray(atoms).reshape(-1).view(np.uint8)
        leading, stride, step = places * span, 8 * span, 16 * span
    out = np.zeros_like(raw)
    for place in range(0, len(raw), 16):
        moved = place ^ ((place // 128 % (span // 16)) * 16)
        out[moved : moved + 16] = raw[place : place + 16]
    return np.pad(out, (0, -len(out) % 1024)), leading, stride, step


def products() -> Iterator[Snippet]:
    for kind in ("bf16", "f16", "tf32"):
        yield wgmma(kind, 64, False, False)
        yield wgmma(kind, 256, False, False, pending=1)
        yield wgmma(kind, 32, False, False, from_registers=True)
    for kind in ("bf16", "f16"):
        for a, b in ((True, False), (False, True), (True, True)):
            yield wgmma(kind, 128, a, b)
    yield wgmma("bf16", 64, False, False, steps=2, span=64)
    yield wgmma("bf16", 64, True, True, span=64)
    yield wgmma("f16", 64, True, False, steps=1, span=32)


SNIPPETS = [pipeline(), *tiles(), *products()]

// SPDX-License-Identifier: Apache-2.0
// Hopper's own instructions (sm_90a), one function each: the copy engine, its barriers, products of a warp group.
// PTX ISA sections are named beside them.
#pragma once

#include "primitives.cuh"

namespace gantk::kernels {

// 9.7.13.15, mbarrier. A barrier's phases are counted by parity; a wait for parity p returns once the phase of that
// parity is complete, and at once for parity 1 of a new barrier.
GANTK_DEVICE void barrier_init(uint32_t barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine.
GANTK_DEVICE void barrier_init_fence() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }

GANTK_DEVICE void barrier_arrive(uint32_t barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// Arrives, and lets the phase wait for so many bytes of the copy engine besides.
GANTK_DEVICE void barrier_arrive_expect(uint32_t barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

GANTK_DEVICE void barrier_wait(uint32_t barrier, uint32_t parity) {
    uint32_t done = 0;
    while (done == 0) {
        asm volatile("{\n"
                     ".reg .pred complete;\n"
                     "mbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
                     "selp.u32 %0, 1, 0, complete;\n"
                     "}"
                     : "=r"(done)
                     : "r"(barrier), "r"(parity)
                     : "memory");
    }
}

// A box at (x, y, z) of a tensor, zeros where it leaves it, to shared memory (9.7.9.25.5.2, cp.async.bulk.tensor).
GANTK_DEVICE void copy_box(uint32_t to, const void* map, uint32_t barrier, int32_t x, int32_t y, int32_t z) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%3, %4, %5}], [%2];"
        ::"r"(to), "l"(map), "r"(barrier), "r"(x), "r"(y), "r"(z)
        : "memory");
}

// A warp group's registers (9.7.19.5, setmaxnreg); all its warps together.
template <uint32_t kRegisters>
GANTK_DEVICE void registers_release() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <uint32_t kRegisters>
GANTK_DEVICE void registers_claim() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// 9.7.15, wgmma. Operands lie as the copy engine leaves boxes of 128 bytes by 64 or more, swizzled, in groups of eight
// lines. A line is a row of the operand, 128 bytes deep; with `Transposed` types it is 64 rows of one term of the sum.
constexpr uint32_t kWgmmaLines = 64 * 128;  // Bytes of 64 lines, or of a transposed operand's 64 rows.

template <class Type>
struct Transposed {};

template <bool kTransposed>
GANTK_DEVICE uint64_t wgmma_operand(uint32_t from) {
    constexpr uint64_t kSwizzle128 = 1ull << 62, kGroupBytes = 1024ull >> 4 << 32;
    constexpr uint64_t kNext64Rows = kTransposed ? uint64_t{kWgmmaLines} >> 4 << 16 : 1ull << 16;  // Else unused.
    return kSwizzle128 | kGroupBytes | kNext64Rows | (from & 0x3ffff) >> 4;
}
// From one product's depth to the next's: 32 bytes of each line, or sixteen lines.
template <bool kTransposed>
constexpr uint64_t kWgmmaDepth = (kTransposed ? 16 * 128 : 32) >> 4;

// Before the first product, and whenever registers of sums were touched.
GANTK_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
GANTK_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int32_t kPending>
GANTK_DEVICE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// Tells the compiler that sums change here, so that it moves no use of them across a wait.
template <int32_t kCount>
GANTK_DEVICE void wgmma_settle(float (&sums)[kCount]) {
#pragma unroll
    for (int32_t i = 0; i < kCount; ++i) asm volatile("" : "+f"(sums[i])::"memory");
}

// clang-format off
#define GANTK_NAMES_32 \
    "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, " \
    "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define GANTK_NAMES_64 GANTK_NAMES_32 ", " \
    "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, " \
    "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define GANTK_NAMES_96 GANTK_NAMES_64 ", " \
    "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
    "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define GANTK_NAMES_128 GANTK_NAMES_96 ", " \
    "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, " \
    "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define GANTK_SUMS_8(i) "+f"(sums[i]), "+f"(sums[i + 1]), "+f"(sums[i + 2]), "+f"(sums[i + 3]), \
                        "+f"(sums[i + 4]), "+f"(sums[i + 5]), "+f"(sums[i + 6]), "+f"(sums[i + 7])
#define GANTK_SUMS_32(i) GANTK_SUMS_8(i), GANTK_SUMS_8(i + 8), GANTK_SUMS_8(i + 16), GANTK_SUMS_8(i + 24)
#define GANTK_SUMS_64(i) GANTK_SUMS_32(i), GANTK_SUMS_32(i + 32)
#define GANTK_SUMS_96(i) GANTK_SUMS_64(i), GANTK_SUMS_32(i + 64)
#define GANTK_SUMS_128(i) GANTK_SUMS_64(i), GANTK_SUMS_64(i + 64)

// sums += a b^T: 64 rows of a by so many columns, the rows of b; 32 bytes deep.
#define GANTK_WGMMA(Element, columns, count, a, b, shape, rest)                                                    \
    GANTK_DEVICE void wgmma(Element, float (&sums)[count], uint64_t rows, uint64_t others) {                       \
        asm volatile("{\n.reg .pred add;\nsetp.eq.u32 add, 0, 0;\n"                                                  \
                     "wgmma.mma_async.sync.aligned.m64n" #columns shape " {" GANTK_NAMES_##count "}, %" #a ", %" #b \
                     ", add, 1, 1" rest ";\n}" : GANTK_SUMS_##count(0) : "l"(rows), "l"(others));                  \
    }
#define GANTK_WGMMA_ALL(Element, shape, rest)                \
    GANTK_WGMMA(Element, 64, 32, 32, 33, shape, rest)        \
    GANTK_WGMMA(Element, 128, 64, 64, 65, shape, rest)       \
    GANTK_WGMMA(Element, 192, 96, 96, 97, shape, rest)       \
    GANTK_WGMMA(Element, 256, 128, 128, 129, shape, rest)

GANTK_WGMMA_ALL(Float16, "k16.f32.f16.f16", ", 0, 0")
GANTK_WGMMA_ALL(BFloat16, "k16.f32.bf16.bf16", ", 0, 0")
GANTK_WGMMA_ALL(Transposed<Float16>, "k16.f32.f16.f16", ", 1, 1")
GANTK_WGMMA_ALL(Transposed<BFloat16>, "k16.f32.bf16.bf16", ", 1, 1")
GANTK_WGMMA_ALL(float, "k8.f32.tf32.tf32", "")
// clang-format on

}  // namespace gantk::kernels

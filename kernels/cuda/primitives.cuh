// SPDX-License-Identifier: Apache-2.0
// One function an instruction that C++ has no word for, and conversions. PTX ISA sections are named beside them.
#pragma once

#include <gantk/kernels/types.h>

#define GANTK_DEVICE __device__ __forceinline__

namespace gantk::kernels {

// 16-bit elements as they lie in memory; arithmetic is in fp32 or on tensor cores.
struct Float16 {
    uint16_t bits;
};
struct BFloat16 {
    uint16_t bits;
};

GANTK_DEVICE float to_float(float value) { return value; }

GANTK_DEVICE float to_float(BFloat16 value) { return __uint_as_float(static_cast<uint32_t>(value.bits) << 16); }

GANTK_DEVICE float to_float(Float16 value) {
    float wide;
    asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
    return wide;
}

// Programmatic dependent launches (PTX ISA, griddepcontrol; from sm_90 on, before that nothing). A kernel that another of
// its plan follows says at its beginning that the next may come, once all of its own blocks are there or gone; the last
// does not, since what others launch after it may not wait. A launch that may come so early, a `Launch::dependent`,
// waits before it reads what those before it write, and before it writes; launched otherwise, it does not wait.
GANTK_DEVICE void let_dependent_come() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#ifdef GANTK_LINGER_NS  // For tests: who does not wait then comes too early for certain, and not by chance.
    __nanosleep(GANTK_LINGER_NS);
#endif
#endif
}

GANTK_DEVICE void wait_for_earlier() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

GANTK_DEVICE uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

GANTK_DEVICE void store_shared16(uint32_t to, const uint32_t (&words)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(words[0]), "r"(words[1]), "r"(words[2]),
                 "r"(words[3])
                 : "memory");
}

// Copies kChunks chunks of 16 bytes to shared memory, `to_apart` bytes and `from_apart` elements apart; those from
// `count` on are zeros and not read (9.7.9.25.3, cp.async). All addresses are multiples of 16. Before sm_80 the thread
// carries them itself, all reads before the first write; `copy_commit` and `copy_wait` are then empty.
template <int32_t kChunks, class Element>
GANTK_DEVICE void copy_chunks(uint32_t to, uint32_t to_apart, const Element* from, int64_t from_apart, int32_t count) {
#if __CUDA_ARCH__ >= 800
#pragma unroll
    for (int32_t i = 0; i < kChunks; ++i) {
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to + i * to_apart), "l"(from + i * from_apart),
                     "r"(i < count ? 16 : 0)
                     : "memory");
    }
#else
    uint4 chunks[kChunks];
#pragma unroll
    for (int32_t i = 0; i < kChunks; ++i) {
        chunks[i] = i < count ? __ldg(reinterpret_cast<const uint4*>(from + i * from_apart)) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int32_t i = 0; i < kChunks; ++i) {
        const uint32_t words[4] = {chunks[i].x, chunks[i].y, chunks[i].z, chunks[i].w};
        store_shared16(to + i * to_apart, words);
    }
#endif
}

// Copies a chunk of 16 bytes word by word, words `apart` elements apart; after the first `bytes` bytes it is zeros.
template <class Element>
GANTK_DEVICE void copy_words(uint32_t to, const Element* from, int64_t apart, int32_t bytes) {
#if __CUDA_ARCH__ >= 800
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
        const int32_t left = bytes - 4 * i;
        asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(to + 4 * i), "l"(from + i * apart),
                     "r"(left < 0 ? 0 : left < 4 ? left : 4)
                     : "memory");
    }
#else
    uint32_t words[4] = {};
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
        const Element* word = from + i * apart;
        if (bytes >= 4 * i + 4) {
            words[i] = __ldg(reinterpret_cast<const uint32_t*>(word));
        } else if (bytes > 4 * i) {
            words[i] = __ldg(reinterpret_cast<const uint16_t*>(word));
        }
    }
    store_shared16(to, words);
#endif
}

GANTK_DEVICE void copy_commit() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until all but the last kPending groups of this thread's copies are in shared memory.
template <int32_t kPending>
GANTK_DEVICE void copy_wait() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Four 8 x 8 matrices of 16-bit elements, or 8 x 4 of 32-bit ones; lane i gives the address of row i % 8 of matrix
// i / 8 and receives of each matrix 32 bits of row i / 4 (9.7.14.5.15, ldmatrix).
GANTK_DEVICE void load_matrices(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

GANTK_DEVICE void load_matrices_transposed(uint32_t (&to)[4], uint32_t from) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(from)
                 : "memory");
}

GANTK_DEVICE uint32_t load_shared(uint32_t from) {
    uint32_t word;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(from) : "memory");
    return word;
}

// Two words, from a multiple of 8 bytes.
GANTK_DEVICE void load_shared8(uint32_t (&to)[2], uint32_t from) {
    asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(to[0]), "=r"(to[1]) : "r"(from) : "memory");
}

// The nearest TF32 number, ties away from zero; its low 13 bits are zero (9.7.9.22, cvt.rna.tf32).
GANTK_DEVICE uint32_t round_to_tf32(uint32_t bits) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(__uint_as_float(bits)));
#endif
    return bits;
}

// sums += a b^T for a of 16 rows and b of 8, both 32 bytes deep (9.7.14.5, mma.sync); tensor cores cut off the bits
// of a sum that fp32 does not hold, they do not round.
GANTK_DEVICE void multiply_add(Float16, float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
#if __CUDA_ARCH__ >= 800
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(b0));
    asm("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[2]), "r"(a[3]), "r"(b1));
#endif
}

#if __CUDA_ARCH__ >= 800
GANTK_DEVICE void multiply_add(BFloat16, float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// For TF32 numbers in `a` and `b`.
GANTK_DEVICE void multiply_add(float, float (&sums)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
#endif

}  // namespace gantk::kernels

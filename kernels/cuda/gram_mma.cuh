// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums on tensor cores by mma.sync, sm_75 and later.
//
// A block walks its slice in steps of 128 bytes (with places dense) or of as many places as make the same amount of
// memory (with channels dense). A ring of stages in shared memory is filled ahead by cp.async; of a tile on the
// diagonal rows and columns are one strip, loaded once.
#pragma once

#include "gram_strips.cuh"

namespace gantk::kernels {

// What tensor cores are given. They cut off what fp32 does not hold, an error that grows with the number of sums in a
// row; after kPromote steps sums go to memory, by additions that round, and begin at zero.
template <class Type>
struct MmaHalf {
    using Element = Type;
    static constexpr int32_t kPromote = 64;
    static constexpr bool kExact = false;
};
struct MmaTf32 {
    using Element = float;
    static constexpr int32_t kPromote = 64;
    static constexpr bool kExact = false;
};
// 3xTF32 (Ootomo and Yokota, arXiv 2203.03341): x = big + small, both TF32; small * small is left out. The tensor
// cores sum eight places only, fp32 additions that round do the rest.
struct MmaExact {
    using Element = float;
    static constexpr int32_t kPromote = 32;
    static constexpr bool kExact = true;
};

// Reads fragments of 16 channels, 32 bytes deep: `a` of mma.sync or `b` of two neighbouring blocks of 8 channels,
// whose second and third words change places.
template <class Element, bool kPlacesDense, int32_t kTile>
struct FragmentReader {
    using Strip = Strip<Element, kPlacesDense, kTile>;
    static constexpr bool kMatrices = kPlacesDense || sizeof(Element) == 2;

    uint32_t from;  // What this lane reads of the first fragment, in the strip.
    bool is_a;

    GANTK_DEVICE FragmentReader(int32_t channel, bool a) : is_a(a) {
        const int32_t lane = threadIdx.x % 32, second = lane / 8 % 2, third = lane / 16;
        const int32_t upper = a ? second : third, later = a ? third : second, eighth = lane % 8;
        if constexpr (kPlacesDense) {
            from = (channel + upper * 8 + eighth) * Strip::kRowBytes + (later ^ Strip::twist(eighth)) * kChunkBytes;
        } else if constexpr (kMatrices) {
            const int32_t chunk = channel / Strip::kWidth + upper;
            from = (later * 8 + eighth) * Strip::kRowBytes + (chunk ^ Strip::twist(eighth)) * kChunkBytes;
        } else {
            const int32_t place = lane % 4, chunk = (channel + lane / 4) / Strip::kWidth;
            from = place * Strip::kRowBytes + (chunk ^ Strip::twist(place)) * kChunkBytes + lane / 4 % 4 * 4;
        }
    }

    // The `block`th fragment of the warp's channels, the `depth`th of the step. A chunk's number and its twist have
    // no carry between them, so that going on by a power of two is an XOR too.
    GANTK_DEVICE void operator()(uint32_t (&to)[4], uint32_t strip, int32_t block, int32_t depth) const {
        if constexpr (kPlacesDense) {
            load_matrices(to, strip + (from ^ depth * 32) + block * 16 * Strip::kRowBytes);
        } else if constexpr (kMatrices) {
            load_matrices_transposed(to, strip + (from ^ block * 32) + depth * 16 * Strip::kRowBytes);
        } else {
#pragma unroll
            for (int32_t i = 0; i < 4; ++i) {
                const int32_t upper = is_a ? i % 2 : i / 2, later = is_a ? i / 2 : i % 2;
                to[i] = load_shared(strip + (from ^ (block % 2 * 64 + upper * 32)) + block / 2 * 128 +
                                    (depth * 8 + later * 4) * Strip::kRowBytes);
            }
        }
    }
};

// A TF32 number and the TF32 number nearest to what it leaves of a float32. Adding half of the last place rounds it
// as cvt.rna does, with the integer units, which have less to do; hardware ignores the bits below.
GANTK_DEVICE void split_tf32(uint32_t& big, uint32_t& small, uint32_t bits) {
    big = round_to_tf32(bits);
    small = __float_as_uint(__uint_as_float(bits) - __uint_as_float(big)) + 0x1000u;
}

// One warp's sums of kRows x kColumns channels, in fragments of 16 x 8.
template <class Mma, int32_t kRows, int32_t kColumns>
struct WarpSums {
    static constexpr int32_t kDown = kRows / 16, kAcross = kColumns / 8;
    float sums[kDown][kAcross][4];

    GANTK_DEVICE void clear() {
#pragma unroll
        for (int32_t m = 0; m < kDown; ++m) {
#pragma unroll
            for (int32_t n = 0; n < kAcross; ++n) {
#pragma unroll
                for (int32_t i = 0; i < 4; ++i) sums[m][n][i] = 0.0f;
            }
        }
    }

    template <class Reader>
    GANTK_DEVICE void add(const Reader& read_rows, const Reader& read_columns, uint32_t rows, uint32_t columns) {
#pragma unroll 1  // Others of the multiprocessor's warps hide the latency; unrolled, it spills.
        for (int32_t depth = 0; depth < kStepBytes / 32; ++depth) {
            uint32_t b[kAcross / 2][4], b_small[kAcross / 2][4];
#pragma unroll
            for (int32_t n = 0; n < kAcross / 2; ++n) {
                read_columns(b[n], columns, n, depth);
                narrow(b[n], b_small[n]);
            }
#pragma unroll
            for (int32_t m = 0; m < kDown; ++m) {
                uint32_t a[4], a_small[4];
                read_rows(a, rows, m, depth);
                narrow(a, a_small);
#pragma unroll
                for (int32_t n = 0; n < kAcross; ++n) {
                    const uint32_t(&right)[4] = b[n / 2], (&right_small)[4] = b_small[n / 2];
                    multiply(sums[m][n], a, a_small, right[n % 2 * 2], right[n % 2 * 2 + 1], right_small[n % 2 * 2],
                             right_small[n % 2 * 2 + 1]);
                }
            }
        }
    }

    // Adds to what this thread wrote before, or writes: no other thread touches these sums before the reduction.
    GANTK_DEVICE void promote(float* tile, int32_t pitch, bool first) const {
        float* to = tile + threadIdx.x % 32 / 4 * pitch + threadIdx.x % 4 * 2;
#pragma unroll
        for (int32_t m = 0; m < kDown; ++m) {
#pragma unroll
            for (int32_t n = 0; n < kAcross; ++n) {
#pragma unroll
                for (int32_t half = 0; half < 2; ++half) {
                    float2* pair = reinterpret_cast<float2*>(to + (m * 16 + half * 8) * pitch + n * 8);
                    float2 sum = make_float2(sums[m][n][half * 2], sums[m][n][half * 2 + 1]);
                    if (!first) {
                        const float2 before = *pair;
                        sum.x += before.x;
                        sum.y += before.y;
                    }
                    *pair = sum;
                }
            }
        }
    }

private:
    static GANTK_DEVICE void narrow(uint32_t (&words)[4], uint32_t (&small)[4]) {
        if constexpr (sizeof(typename Mma::Element) == 4) {
#pragma unroll
            for (int32_t i = 0; i < 4; ++i) {
                if constexpr (Mma::kExact) {
                    split_tf32(words[i], small[i], words[i]);
                } else {
                    words[i] = round_to_tf32(words[i]);
                }
            }
        }
    }

    static GANTK_DEVICE void multiply(float (&sums)[4], const uint32_t (&a)[4], const uint32_t (&a_small)[4],
                                      uint32_t b0, uint32_t b1, uint32_t b0_small, uint32_t b1_small) {
        const typename Mma::Element type{};
        if constexpr (Mma::kExact) {
            float step[4] = {};  // The small products first: cutting off costs them nothing.
            multiply_add(type, step, a_small, b0, b1);
            multiply_add(type, step, a, b0_small, b1_small);
            multiply_add(type, step, a, b0, b1);
#pragma unroll
            for (int32_t i = 0; i < 4; ++i) sums[i] += step[i];
        } else {
            multiply_add(type, sums, a, b0, b1);
        }
    }
};

// The place after `offset` in a ring.
template <uint32_t kRingBytes>
GANTK_DEVICE uint32_t after(uint32_t offset, uint32_t bytes) {
    return offset + bytes == kRingBytes ? 0 : offset + bytes;
}

template <class Mma, bool kPlacesDense, int32_t kTile>
GANTK_DEVICE void gram_partial_mma(const GramParameters& p) {
    using Element = typename Mma::Element;
    using Strip = Strip<Element, kPlacesDense, kTile>;
    using Reader = FragmentReader<Element, kPlacesDense, kTile>;
    constexpr int32_t kWarpRows = kTile / 2, kWarpColumns = 32, kWarpsAcross = kTile / kWarpColumns;
    extern __shared__ __align__(128) unsigned char ring_bytes[];
    const GramWork work = gram_work(p);
#if __CUDA_ARCH__ >= 800
    __shared__ float* partial;  // Wanted seldom; in a register it would be in the way.
    if (threadIdx.x == 0) partial = work.partial();
#else
    float* const partial = work.partial();  // The ring may want all of the 64 KiB.
#endif
    const bool diagonal = work.diagonal();
    // Strips of rows in all stages, then those of columns; on the diagonal these are the same.
    const uint32_t ring = shared_address(ring_bytes), columns = diagonal ? 0 : kStages * Strip::kBytes;
    const int32_t steps = work.steps(Strip::kPlaces);

    StripCopy<Element, kPlacesDense, kTile> copy_strip(work);
    uint32_t into = 0, stage = 0;
    int32_t places = work.places;
    auto copy = [&]() {
        if (places > 0) {
            copy_strip(ring + into, work.first_row, places);
            if (!diagonal) copy_strip(ring + columns + into, work.first_column, places);
            copy_strip.from += Strip::kPlaces * work.layer.place_stride;
            places -= Strip::kPlaces;
            into = after<kStages * Strip::kBytes>(into, Strip::kBytes);
        }
        copy_commit();  // Also where there is nothing left, so that `copy_wait` counts the same to the end.
    };

    const int32_t warp = threadIdx.x / 32;
    const int32_t row = warp / kWarpsAcross * kWarpRows, column = warp % kWarpsAcross * kWarpColumns;
    // A warp whose sums lie outside of the matrix or above its diagonal only copies.
    const bool active = work.first_row + row < work.layer.channels &&
                        work.first_column + column < work.layer.channels && (!diagonal || column < row + kWarpRows);
    const Reader read_rows(row, true), read_columns(column, false);
    WarpSums<Mma, kWarpRows, kWarpColumns> sums;
    sums.clear();
#pragma unroll 1
    for (int32_t ahead = 1; ahead < kStages; ++ahead) copy();
#pragma unroll 1
    for (int32_t step = 1; step <= steps; ++step) {
        copy_wait<kStages - 2>();
        __syncthreads();  // The stage of this step is there, and nobody reads that of the last any more.
        copy();
        if (active) {
            sums.add(read_rows, read_columns, ring + stage, ring + columns + stage);
            if (step % Mma::kPromote == 0 || step == steps) {
                sums.promote(partial + row * kTile + column, kTile, step <= Mma::kPromote);
                sums.clear();
            }
        }
        stage = after<kStages * Strip::kBytes>(stage, Strip::kBytes);
    }
}

}  // namespace gantk::kernels

// gantk_gram_MATH_LAYOUT_TILE, of which `blocks` are to share a multiprocessor: with 512 threads, 128 registers each.
#define GANTK_GRAM_MMA_KERNEL(name, Mma, layout, dense, tile, blocks)                                      \
    extern "C" __global__ void __launch_bounds__(2 * tile, blocks)                                        \
        gantk_gram_##name##_##layout##_##tile(const __grid_constant__ gantk::kernels::GramParameters p) { \
        gantk::kernels::gram_partial_mma<Mma, dense, tile>(p);                                            \
    }
#define GANTK_GRAM_MMA(name, Mma, blocks)                        \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nchw, true, 64, 4)          \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nchw, true, 128, blocks)    \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nhwc, false, 64, 4)         \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nhwc, false, 128, blocks)

// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums on tensor cores by mma.sync, sm_75 and later.
//
// A block walks its slice in steps of 128 bytes (with places dense) or of as many places as make the same amount of
// memory (with channels dense). A ring of stages in shared memory is filled ahead by cp.async; of a tile on the
// diagonal rows and columns are one strip, loaded once.
#pragma once

#include "gram_diagonal.cuh"

namespace gantk::kernels {

// One warp's sums of kRows x kColumns channels, in fragments of 16 x 8.
template <int32_t kRows, int32_t kColumns>
struct WarpSums {
    static constexpr int32_t kDown = kRows / 16, kAcross = kColumns / 8;
    float sums[kDown][kAcross][4];

    GANTK_DEVICE void clear() {
#pragma unroll
        for (int32_t i = 0; i < kDown * kAcross * 4; ++i) sums[i / (kAcross * 4)][i / 4 % kAcross][i % 4] = 0.0f;
    }

    template <class Mma, class Reader>
    GANTK_DEVICE void add(const Reader& read_rows, const Reader& read_columns, uint32_t rows, uint32_t columns) {
#pragma unroll 1  // Other warps of the multiprocessor hide the latency; unrolled, it spills.
        for (int32_t depth = 0; depth < kStepBytes / 32; ++depth) {
            uint32_t b[kAcross / 2][4], b_small[kAcross / 2][4];
#pragma unroll
            for (int32_t n = 0; n < kAcross / 2; ++n) {
                read_columns(b[n], columns, n, depth);
                narrow<Mma>(b[n], b_small[n]);
            }
#pragma unroll
            for (int32_t m = 0; m < kDown; ++m) {
                uint32_t a[4], a_small[4];
                read_rows(a, rows, m, depth);
                narrow<Mma>(a, a_small);
#pragma unroll
                for (int32_t n = 0; n < kAcross; ++n) {
                    const uint32_t(&right)[4] = b[n / 2], (&right_small)[4] = b_small[n / 2];
                    multiply<Mma>(sums[m][n], a, a_small, right[n % 2 * 2], right[n % 2 * 2 + 1],
                                  right_small[n % 2 * 2], right_small[n % 2 * 2 + 1]);
                }
            }
        }
    }

    GANTK_DEVICE void promote_all(float* tile, int32_t pitch, bool first) const {
#pragma unroll
        for (int32_t m = 0; m < kDown; ++m) {
#pragma unroll
            for (int32_t n = 0; n < kAcross; ++n) promote(tile + m * 16 * pitch + n * 8, pitch, sums[m][n], first);
        }
    }
};

// Walks the slice: `use(step, rows, columns)` for steps 1, 2, ..., with the strips' addresses. On the diagonal they are
// the same; elsewhere strips of columns follow those of rows in all stages.
template <class Element, bool kPlacesDense, int32_t kTile, class Use>
GANTK_DEVICE void walk(const GramWork& work, uint32_t ring, bool diagonal, const Use& use) {
    using Strip = Strip<Element, kPlacesDense, kTile>;
    constexpr uint32_t kRingBytes = kStages * Strip::kBytes;
    const auto after = [](uint32_t stage) { return stage + Strip::kBytes == kRingBytes ? 0 : stage + Strip::kBytes; };
    const uint32_t columns = diagonal ? 0 : kRingBytes;
    const int32_t steps = work.steps(Strip::kPlaces);
    StripCopy<Element, kPlacesDense, kTile> copy_strip(work);
    uint32_t into = 0, stage = 0;
    int32_t places = work.places;
    const auto copy = [&]() {
        if (places > 0) {
            copy_strip(ring + into, work.first_row, places);
            if (!diagonal) copy_strip(ring + columns + into, work.first_column, places);
            copy_strip.from += Strip::kPlaces * work.layer.place_stride;
            places -= Strip::kPlaces;
            into = after(into);
        }
        copy_commit();  // Also where there is nothing left, so that `copy_wait` counts the same to the end.
    };
#pragma unroll 1
    for (int32_t ahead = 1; ahead < kStages; ++ahead) copy();
#pragma unroll 1
    for (int32_t step = 1; step <= steps; ++step) {
        copy_wait<kStages - 2>();
        __syncthreads();  // The stage of this step is there, and nobody reads that of the last any more.
        copy();
        use(step, ring + stage, ring + columns + stage);
        stage = after(stage);
    }
}

template <class Mma, bool kPlacesDense, int32_t kTile>
GANTK_DEVICE void gram_partial_mma(const GramParameters& p) {
    using Element = typename Mma::Element;
    using Reader = FragmentReader<Element, kPlacesDense, kTile>;
    extern __shared__ __align__(128) unsigned char ring_bytes[];
    const uint32_t ring = shared_address(ring_bytes);
    const GramWork work = gram_work(p);
#if __CUDA_ARCH__ >= 800
    __shared__ float* partial;  // Wanted seldom; in a register it would be in the way.
    if (threadIdx.x == 0) partial = work.partial();
#else
    float* const partial = work.partial();  // The ring may want all of the 64 KiB.
#endif
    const int32_t steps = work.steps(kStepBytes / sizeof(Element)), warp = threadIdx.x / 32;

    if constexpr (kTile == 64) {
        if (work.diagonal()) {
            constexpr int32_t kPromote = Mma::kPromote * kDiagonalWarps;  // Each warp has one depth of four.
            const Reader read(0, true);
            DiagonalSums sums;
            sums.clear();
            walk<Element, kPlacesDense, kTile>(work, ring, true, [&](int32_t step, uint32_t strip, uint32_t) {
                sums.template add<Mma>(read, strip, warp);
                if (step % kPromote == 0 && step < steps) sums.promote_in_turn(partial, step == kPromote);
            });
            sums.promote_together(partial, steps <= kPromote, reinterpret_cast<float(*)[4][32]>(ring_bytes));
            return;
        }
    }

    constexpr int32_t kWarpRows = kTile / 2, kWarpColumns = 32, kWarpsAcross = kTile / kWarpColumns;
    const int32_t row = warp / kWarpsAcross * kWarpRows, column = warp % kWarpsAcross * kWarpColumns;
    const bool diagonal = kTile > 64 && work.diagonal();
    // A warp whose sums lie outside of the matrix or above its diagonal only copies.
    const bool active = work.first_row + row < work.layer.channels &&
                        work.first_column + column < work.layer.channels && (!diagonal || column < row + kWarpRows);
    const Reader read_rows(row, true), read_columns(column, false);
    WarpSums<kWarpRows, kWarpColumns> sums;
    sums.clear();
    walk<Element, kPlacesDense, kTile>(work, ring, diagonal, [&](int32_t step, uint32_t rows, uint32_t columns) {
        if (!active) return;
        sums.template add<Mma>(read_rows, read_columns, rows, columns);
        if (step % Mma::kPromote == 0 || step == steps) {
            sums.promote_all(partial + row * kTile + column, kTile, step <= Mma::kPromote);
            sums.clear();
        }
    });
}

}  // namespace gantk::kernels

// gantk_gram_MATH_LAYOUT_TILE. Blocks that are to share a multiprocessor: of 512 threads in all, 128 registers each.
#define GANTK_GRAM_MMA_KERNEL(name, Mma, layout, dense, tile, blocks)                                     \
    extern "C" __global__ void __launch_bounds__(2 * tile, blocks)                                        \
        gantk_gram_##name##_##layout##_##tile(const __grid_constant__ gantk::kernels::GramParameters p) { \
        gantk::kernels::let_dependent_come();                                                             \
        gantk::kernels::gram_partial_mma<Mma, dense, tile>(p);                                            \
    }
#define GANTK_GRAM_MMA(name, Mma, blocks64, blocks128)            \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nchw, true, 64, blocks64)    \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nchw, true, 128, blocks128)  \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nhwc, false, 64, blocks64)   \
    GANTK_GRAM_MMA_KERNEL(name, Mma, nhwc, false, 128, blocks128)

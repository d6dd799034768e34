// SPDX-License-Identifier: Apache-2.0
// Sums of a tile of 64 channels on the diagonal. Its four warps share the four depths of a step rather than the tile:
// each has the whole triangle, 20 fragments of 16 x 8 of the square's 32, and of what it reads every fragment is both
// `a` and `b`. The warps' sums are added up at the end, in their order.
#pragma once

#include "gram_fragments.cuh"

namespace gantk::kernels {

constexpr int32_t kDiagonalWarps = 4, kTriangle = 20;
static_assert(kDiagonalWarps == kStepBytes / 32);

struct DiagonalSums {
    float sums[kTriangle][4];  // Fragment (m, n), of rows from 16 m and columns from 8 n, n <= 2 m + 1: m (m + 1) + n.

    GANTK_DEVICE void clear() {
#pragma unroll
        for (int32_t i = 0; i < kTriangle; ++i) {
#pragma unroll
            for (int32_t j = 0; j < 4; ++j) sums[i][j] = 0.0f;
        }
    }

    template <class Mma, class Reader>
    GANTK_DEVICE void add(const Reader& read, uint32_t strip, int32_t depth) {
        uint32_t words[4][4], small[4][4];
#pragma unroll
        for (int32_t m = 0; m < 4; ++m) {
            read(words[m], strip, m, depth);
            narrow<Mma>(words[m], small[m]);
        }
#pragma unroll
        for (int32_t m = 0; m < 4; ++m) {
#pragma unroll
            for (int32_t n = 0; n <= 2 * m + 1; ++n) {  // Words i and i + 2 of `a` are the i-th eight rows of `b`.
                const int32_t i = n % 2;
                multiply<Mma>(sums[m * (m + 1) + n], words[m], small[m], words[n / 2][i], words[n / 2][i + 2],
                              small[n / 2][i], small[n / 2][i + 2]);
            }
        }
    }

    // In turn, for sums that go on.
    GANTK_DEVICE void promote_in_turn(float* tile, bool first) {
#pragma unroll 1
        for (int32_t turn = 0; turn < kDiagonalWarps; ++turn) {
            if (threadIdx.x / 32 == turn) promote_all(tile, first && turn == 0);
            __syncthreads();
        }
        clear();
    }

    // By way of shared memory, at the end.
    GANTK_DEVICE void promote_together(float* tile, bool first, float (*shared)[4][32]) {
        const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32;
#pragma unroll 1
        for (int32_t turn = 1; turn < kDiagonalWarps; ++turn) {
            __syncthreads();
            if (warp == turn) {
#pragma unroll
                for (int32_t i = 0; i < kTriangle * 4; ++i) shared[i / 4][i % 4][lane] = sums[i / 4][i % 4];
            }
            __syncthreads();
            if (warp == 0) {
#pragma unroll
                for (int32_t i = 0; i < kTriangle * 4; ++i) sums[i / 4][i % 4] += shared[i / 4][i % 4][lane];
            }
        }
        if (warp == 0) promote_all(tile, first);
    }

private:
    GANTK_DEVICE void promote_all(float* tile, bool first) const {
#pragma unroll
        for (int32_t m = 0; m < 4; ++m) {
#pragma unroll
            for (int32_t n = 0; n <= 2 * m + 1; ++n) {
                promote(tile + m * 16 * 64 + n * 8, 64, sums[m * (m + 1) + n], first);
            }
        }
    }
};

}  // namespace gantk::kernels

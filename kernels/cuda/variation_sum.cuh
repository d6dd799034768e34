// SPDX-License-Identifier: Apache-2.0
// Sums in a fixed order, so that every run gives the same bits: of a block, and of a picture's blocks.
#pragma once

#include <gantk/kernels/variation_parameters.h>

#include "primitives.cuh"

namespace gantk::kernels {

constexpr int kThreads = kVariationThreads;
constexpr int kWarps = kThreads / 32;

// The sum over the threads of a block, valid in thread 0.
template <class Number>
GANTK_DEVICE Number block_sum(Number value) {
    __shared__ Number sums[kWarps];
#pragma unroll
    for (int lanes = 16; lanes > 0; lanes /= 2) value += __shfl_xor_sync(~0u, value, lanes);
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
    __syncthreads();
    Number total = sums[0];
#pragma unroll
    for (int warp = 1; warp < kWarps; ++warp) total += sums[warp];
    return total;
}

// The value of a picture from its blocks' sums; in float64, which there are few enough of.
GANTK_DEVICE void finish(const VariationParameters& p, int64_t picture) {
    constexpr uint32_t kAtOnce = 9;  // On their way at once: all, where an H200 has as many blocks as fit.
    const float* partials = p.partials + picture * p.blocks;
    const uint32_t blocks = uint32_t(p.blocks);
    double sum = 0;
    for (uint32_t first = threadIdx.x; first < blocks; first += kAtOnce * kThreads) {
        float parts[kAtOnce];
#pragma unroll
        for (uint32_t i = 0; i < kAtOnce; ++i) {
            const uint32_t block = first + i * kThreads;
            // Other multiprocessors wrote them: not through the first-level cache.
            parts[i] = block < blocks ? __ldcg(partials + block) : 0.f;
        }
#pragma unroll
        for (uint32_t i = 0; i < kAtOnce; ++i) sum += parts[i];
    }
    const double total = block_sum(sum);
    if (threadIdx.x == 0) p.value[picture] = float(total);
}

// Whether this block is the last of its picture to say that its partial is written; the counter wraps to 0.
GANTK_DEVICE bool is_last(const VariationParameters& p, int64_t picture) {
    __shared__ bool last;
    if (threadIdx.x == 0) {
        __threadfence();
        const uint32_t most = uint32_t(p.blocks) - 1;
        last = atomicInc(p.counters + picture, most) == most;
        __threadfence();
    }
    __syncthreads();
    return last;
}

// Bring a thread's sum to where it belongs: the picture's value, or one of its partials.
GANTK_DEVICE void conclude(const VariationParameters& p, int64_t picture, float sum) {
    const float total = block_sum(sum);
    if (threadIdx.x == 0) {
        if (p.blocks == 1) {
            p.value[picture] = total;
        } else {
            p.partials[picture * p.blocks + blockIdx.x] = total;
        }
    }
    if (p.blocks == 1 || p.counters == nullptr) return;
    if (is_last(p, picture)) finish(p, picture);
}

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// The gradient in fp32 without tensor cores: sm_75 (all but float16) and features neither of whose strides is 1.
// A block makes 64 channels x 64 places, a thread 4 x 4. Bound by its reads of shared memory, half of the fp32 peak.
#pragma once

#include "gram_gradient_work.cuh"

namespace gantk::kernels {

constexpr int32_t kGradientSimtTile = 64, kGradientSimtStep = 16, kGradientSimtThreads = 256;

template <class Element>
GANTK_DEVICE void gram_gradient_simt(const GramGradientParameters& p) {
    constexpr int32_t kTile = kGradientSimtTile, kStep = kGradientSimtStep;
    __shared__ float slopes[kStep][kTile + 1];  // One more, so that a column meets all banks.
    __shared__ float features[kStep][kTile + 1];

    const GramGradientLayer& layer = layer_of(p, &GramGradientLayer::first_block);
    const int64_t picture = blockIdx.y;
    const int32_t block = static_cast<int32_t>(blockIdx.x) - layer.first_block, thread = threadIdx.x;
    const int32_t tops = layer.rows / kTile, top = block % tops * kTile;
    const int64_t first_place = static_cast<int64_t>(block / tops) * kTile;
    const bool channels_last = layer.channel_stride < layer.place_stride;
    // A thread's results lie 16 apart, so that a warp's accesses are neighbours.
    const int32_t row = channels_last ? thread % 16 : thread / 16, column = channels_last ? thread / 16 : thread % 16;

    const Element* from = static_cast<const Element*>(layer.features) + picture * layer.batch_stride;
    const float* weights = static_cast<const float*>(layer.slopes) + (picture * layer.rows + top) * layer.columns;
    float sums[4][4] = {};
#pragma unroll 1
    for (int32_t first = 0; first < layer.columns; first += kStep) {
#pragma unroll
        for (int32_t i = thread; i < kStep * kTile; i += kGradientSimtThreads) {
            const int32_t line = i / kStep, step = i % kStep;
            slopes[step][line] = weights[static_cast<int64_t>(line) * layer.columns + first + step];
        }
#pragma unroll
        for (int32_t i = thread; i < kStep * kTile; i += kGradientSimtThreads) {
            const int32_t step = channels_last ? i % kStep : i / kTile, line = channels_last ? i / kStep : i % kTile;
            const int64_t channel = first + step, place = first_place + line;
            const bool inside = channel < layer.channels && place < layer.places;
            features[step][line] =
                inside ? to_float(from[channel * layer.channel_stride + place * layer.place_stride]) : 0.0f;
        }
        __syncthreads();
#pragma unroll
        for (int32_t step = 0; step < kStep; ++step) {
            float right[4];
#pragma unroll
            for (int32_t j = 0; j < 4; ++j) right[j] = features[step][column + 16 * j];
#pragma unroll
            for (int32_t i = 0; i < 4; ++i) {
                const float left = slopes[step][row + 16 * i];
#pragma unroll
                for (int32_t j = 0; j < 4; ++j) sums[i][j] = fmaf(left, right[j], sums[i][j]);
            }
        }
        __syncthreads();
    }
    Element* to = static_cast<Element*>(layer.result) + picture * layer.result_batch_stride;
#pragma unroll
    for (int32_t i = 0; i < 4; ++i) {
#pragma unroll
        for (int32_t j = 0; j < 4; ++j) {
            const int64_t channel = top + row + 16 * i, place = first_place + column + 16 * j;
            if (channel >= layer.channels || place >= layer.places) continue;
            from_float(to[channel * layer.result_channel_stride + place * layer.result_place_stride], sums[i][j]);
        }
    }
}

}  // namespace gantk::kernels

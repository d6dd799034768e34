// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums without tensor cores: fp32 products and sums of any element, strides and alignment. It serves
// sm_75 (all but float16), and exact float32 sums of so few places that 3xTF32 would be less exact than they are.
//
// Bound by fp32 arithmetic: 32 multiply-adds for three 16-byte reads of shared memory.
#pragma once

#include "gram_work.cuh"

namespace gantk::kernels {

constexpr int32_t kSimtTile = 64, kSimtStep = 16, kSimtThreads = 128;
constexpr int32_t kSimtRun = kSimtTile * kSimtStep / kSimtThreads;  // Neighbours that a thread loads of a strip.

// What one thread carries of a strip of 64 channels and 16 places: eight neighbours in the direction in which the
// features are dense, along the places or, with channels last, along the channels.
template <class Element>
struct SimtRun {
    float values[kSimtRun];

    GANTK_DEVICE void load(const GramLayer& layer, const Element* picture, int32_t first_channel, int64_t first_place,
                           int32_t places, bool channels_last) {
        const int32_t thread = threadIdx.x;
        const int32_t channel = first_channel + (channels_last ? thread % 8 * kSimtRun : thread % kSimtTile);
        const int64_t place = first_place + (channels_last ? thread / 8 : thread / kSimtTile * kSimtRun);
        const Element* from = picture + channel * layer.channel_stride + place * layer.place_stride;
        const int64_t step = channels_last ? layer.channel_stride : layer.place_stride;
        int32_t left = channels_last ? layer.channels - channel : places - thread / kSimtTile * kSimtRun;
        if (channels_last ? thread / 8 >= places : channel >= layer.channels) left = 0;
#pragma unroll
        for (int32_t i = 0; i < kSimtRun; ++i) values[i] = i < left ? to_float(from[i * step]) : 0.0f;
    }

    GANTK_DEVICE void store(float (&strip)[kSimtStep][kSimtTile], bool channels_last) const {
        const int32_t thread = threadIdx.x;
#pragma unroll
        for (int32_t i = 0; i < kSimtRun; ++i) {
            if (channels_last) {
                strip[thread / 8][thread % 8 * kSimtRun + i] = values[i];
            } else {
                strip[thread / kSimtTile * kSimtRun + i][thread % kSimtTile] = values[i];
            }
        }
    }
};

// A thread's sums of 8 rows and 4 columns. Those of a step are added up apart, so that rounding errors grow with the
// number of steps rather than of places.
GANTK_DEVICE void simt_step(float (&sums)[8][4], const float (&rows)[kSimtStep][kSimtTile],
                            const float (&columns)[kSimtStep][kSimtTile]) {
    const int32_t top = threadIdx.x / 16 * 8, left = threadIdx.x % 16 * 4;
    float step[8][4] = {};
#pragma unroll
    for (int32_t k = 0; k < kSimtStep; ++k) {
        const float4 above = *reinterpret_cast<const float4*>(&rows[k][top]);
        const float4 below = *reinterpret_cast<const float4*>(&rows[k][top + 4]);
        const float4 right = *reinterpret_cast<const float4*>(&columns[k][left]);
        const float a[8] = {above.x, above.y, above.z, above.w, below.x, below.y, below.z, below.w};
        const float b[4] = {right.x, right.y, right.z, right.w};
#pragma unroll
        for (int32_t i = 0; i < 8; ++i) {
#pragma unroll
            for (int32_t j = 0; j < 4; ++j) step[i][j] = fmaf(a[i], b[j], step[i][j]);
        }
    }
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) {
#pragma unroll
        for (int32_t j = 0; j < 4; ++j) sums[i][j] += step[i][j];
    }
}

template <class Element>
GANTK_DEVICE void gram_partial_simt(const GramParameters& p) {
    __shared__ __align__(16) float strips[2][2][kSimtStep][kSimtTile];
    const GramWork work = gram_work(p);
    const Element* picture = static_cast<const Element*>(work.picture(sizeof(Element)));
    const bool channels_last = work.layer.channel_stride < work.layer.place_stride, diagonal = work.diagonal();
    SimtRun<Element> rows, columns;
    auto load = [&](int32_t gone) {
        const int64_t place = work.first_place + gone;
        rows.load(work.layer, picture, work.first_row, place, work.places - gone, channels_last);
        if (!diagonal) columns.load(work.layer, picture, work.first_column, place, work.places - gone, channels_last);
    };
    float sums[8][4] = {};
    load(0);
    int32_t buffer = 0;
    for (int32_t place = 0; place < work.places; place += kSimtStep, buffer ^= 1) {
        rows.store(strips[buffer][0], channels_last);
        if (!diagonal) columns.store(strips[buffer][1], channels_last);
        __syncthreads();  // One barrier a step: the other buffer is not written before all have passed the next.
        if (place + kSimtStep < work.places) load(place + kSimtStep);
        simt_step(sums, strips[buffer][0], strips[buffer][diagonal ? 0 : 1]);
    }
    float* to = work.partial() + threadIdx.x / 16 * 8 * kSimtTile + threadIdx.x % 16 * 4;
#pragma unroll
    for (int32_t i = 0; i < 8; ++i) {
        *reinterpret_cast<float4*>(to + i * kSimtTile) = make_float4(sums[i][0], sums[i][1], sums[i][2], sums[i][3]);
    }
}

}  // namespace gantk::kernels

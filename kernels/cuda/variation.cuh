// SPDX-License-Identifier: Apache-2.0
// The total variation of pictures, and its gradient in the same pass over them.
//
// A thread owns a few neighbouring columns of one channel and walks down a band of rows. It keeps the row above,
// its own and the next few in registers, so that each pixel is read once, but for a row or two between bands.
#pragma once

#include <gantk/kernels/variation_parameters.h>

#include "variation_rows.cuh"
#include "variation_sum.cuh"
#include "variation_terms.cuh"

namespace gantk::kernels {

// Rows that are on their way while one is worked on: enough bytes in flight for the memory's latency.
constexpr int kAhead = 4;

// What a thread does with one row, and what it remembers of the one above.
template <class Kind, class Rows, bool kGradient>
class Walk {
public:
    static constexpr int kPixels = Rows::kPixels;

    __device__ Walk(const VariationParameters& p, const Rows& rows, const Column& column)
        : kind_(p), rows_(rows), has_left_(column.has_left), has_right_(column.has_right) {}

    // Take the slopes of the row above the band; nothing else of it belongs to the band.
    __device__ void look_above(const Window<kPixels>& above, const Window<kPixels>& first) {
#pragma unroll
        for (int i = 0; i < kPixels; ++i) above_[i] = term<false>(above, first, i).slope_y;
    }

    template <bool kBottom>
    __device__ void step(int row, const Window<kPixels>& here, const Window<kPixels>& below) {
        float gradient[kPixels];
        float value = 0;
        float left = kGradient ? slope_of_left<kBottom>(here, below) : 0.f;
#pragma unroll
        for (int i = 0; i < kPixels; ++i) {
            const Term found = term<kBottom>(here, below, i);
            value += found.value;
            gradient[i] = (left - found.slope_x) + (above_[i] - found.slope_y);
            left = found.slope_x;
            above_[i] = found.slope_y;
        }
        sum_ += value;  // Row by row: two levels lose less than one.
        if constexpr (kGradient) rows_.store(row, gradient);
    }

    __device__ float sum() const { return sum_; }

private:
    template <bool kBottom>
    __device__ Term term(const Window<kPixels>& here, const Window<kPixels>& below, int i) const {
        const bool inner = i + 1 < kPixels;
        const float right = inner ? here.pixel[inner ? i + 1 : i] : here.right;
        const float dx = inner || has_right_ ? right - here.pixel[i] : 0.f;
        const float dy = kBottom ? 0.f : below.pixel[i] - here.pixel[i];
        return kind_.term(dx, dy);
    }

    template <bool kBottom>
    __device__ float slope_of_left(const Window<kPixels>& here, const Window<kPixels>& below) const {
        const float dx = has_left_ ? here.pixel[0] - here.left : 0.f;
        return kind_.term(dx, kBottom ? 0.f : below.left - here.left).slope_x;
    }

    Kind kind_;
    const Rows& rows_;
    bool has_left_;
    bool has_right_;
    float above_[kPixels] = {};
    float sum_ = 0;
};

// Walk down the band of this block; return what the thread's pixels add to the value.
template <class Kind, class Rows, bool kGradient>
__device__ float walk_band(const VariationParameters& p, int64_t picture) {
    const int64_t first = int64_t(blockIdx.x / uint32_t(p.column_blocks)) * p.rows;
    const int64_t index = int64_t(blockIdx.x % uint32_t(p.column_blocks)) * kThreads + threadIdx.x;
    const int count = int(p.height - first < p.rows ? p.height - first : p.rows);
    const bool bottom = first + count == p.height;
    const int below = bottom ? count - 1 : count;  // Rows of the band that have one below them.

    const Column column(p, index, picture, first, Rows::kPixels);
    const Rows rows(p, column, kGradient);
    Walk<Kind, Rows, kGradient> walk(p, rows, column);
    typename Rows::Raw above{}, ahead[kAhead];
    if (kGradient && first > 0) above = rows.load(-1);
    const typename Rows::Raw top = rows.load(0);
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
        if (k < below) ahead[k] = rows.load(k + 1);
    }
    auto here = rows.open(top);
    if (kGradient && first > 0) walk.look_above(rows.open(above), here);

    for (int row = 0; row < below; row += kAhead) {
#pragma unroll
        for (int k = 0; k < kAhead; ++k) {
            if (row + k < below) {
                const auto next = rows.open(ahead[k]);
                if (row + k + kAhead < below) ahead[k] = rows.load(row + k + kAhead + 1);
                walk.template step<false>(row + k, here, next);
                here = next;
            }
        }
    }
    if (bottom) walk.template step<true>(below, here, here);
    return column.active ? walk.sum() : 0.f;
}

// Pictures lie along y and z, since either has a limit.
__device__ inline int64_t picture_of_block() { return int64_t(blockIdx.z) * gridDim.y + blockIdx.y; }

template <class Kind, class Rows, bool kGradient>
__device__ void variation(const VariationParameters& p) {
    const int64_t picture = picture_of_block();
    if (picture >= p.batch) return;
    conclude(p, picture, walk_band<Kind, Rows, kGradient>(p, picture));
}

}  // namespace gantk::kernels

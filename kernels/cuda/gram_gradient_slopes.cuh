// SPDX-License-Identifier: Apache-2.0
// First of the gradient's two launches: the slopes S = factor * upstream * (dG + dG^T), once, in the type that is
// multiplied, padded with zeros to whole tiles, so that the second launch copies them without a guard.
//
// Why not in the second launch: each of its blocks needs S for all its rows, two words of dG an element. At C = 512
// and tiles of 128 rows that is 512 KiB a block, 67 MB over 132 multiprocessors, against 34 MB of features and
// result of a 1024^2 picture; as halves it is 17 MB. This launch moves 3 MB there.
#pragma once

#include "gram_gradient_work.cuh"

namespace gantk::kernels {

// Rows, one a warp, that a block takes: eight neighbours fill the sectors that reading dG by columns fetches.
constexpr int32_t kStripRows = 8, kSlopesThreads = 32 * kStripRows;

// The power of two that a row of float16 slopes is divided by, so that its largest is in [2^14, 2^15). Slopes of
// 1e-9 are usual (1 / K times a weight) and would round to 0 as they are; with the row's own unit what rounds to 0
// is 2^-39 of the largest. `largest` is the bits of an absolute value.
GANTK_DEVICE float unit_of(uint32_t largest) {
    if (largest == 0u || largest >= 0x7f800000u) return 1.0f;
    const uint32_t exponent = max(largest >> 23, 15u) - 14u;  // Kept normal; so is 1 / unit.
    return __uint_as_float(exponent << 23);
}

template <class Element>
GANTK_DEVICE void gram_slopes(const GramGradientParameters& p) {
    const GramGradientLayer& layer = layer_of(p, &GramGradientLayer::first_strip);
    const int64_t picture = blockIdx.y;
    const int32_t lane = threadIdx.x % 32;
    const int32_t row = (static_cast<int32_t>(blockIdx.x) - layer.first_strip) * kStripRows + threadIdx.x / 32;

    const float* gradient = layer.gradient + picture * layer.gradient_batch_stride;
    const float* along = gradient + row * layer.gradient_row_stride;
    const float* across = gradient + row * layer.gradient_column_stride;
    float factor = layer.factor;
    if (layer.upstream != nullptr) factor *= layer.upstream[picture * layer.upstream_stride];
    const auto slope = [&](int32_t column) {
        if (row >= layer.channels || column >= layer.channels) return 0.0f;
        return (along[column * layer.gradient_column_stride] + across[column * layer.gradient_row_stride]) * factor;
    };

    float inverse = 1.0f;
    if constexpr (kHasUnits<Element>) {
        uint32_t largest = 0;  // Bits of absolute values are in their order, infinity and NaN last.
        for (int32_t column = lane; column < layer.channels; column += 32) {
            largest = max(largest, __float_as_uint(slope(column)) & 0x7fffffffu);
        }
        for (int32_t distance = 16; distance > 0; distance /= 2) {
            largest = max(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
        }
        const float unit = unit_of(largest);
        if (lane == 0) layer.units[picture * layer.rows + row] = unit;
        inverse = 1.0f / unit;  // Exact.
    }
    Element* to = static_cast<Element*>(layer.slopes) + (picture * layer.rows + row) * layer.columns;
    for (int32_t column = lane; column < layer.columns; column += 32) {
        from_float(to[column], slope(column) * inverse);
    }
}

}  // namespace gantk::kernels

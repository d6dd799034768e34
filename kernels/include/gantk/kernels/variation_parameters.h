// SPDX-License-Identifier: Apache-2.0
// What the kernels of the total variation are given. `gantk/kernels/parameters.py` is its twin.
#pragma once

#include <gantk/kernels/types.h>

namespace gantk::kernels {

constexpr uint32_t kVariationL1 = 0;
constexpr uint32_t kVariationL2 = 1;
constexpr uint32_t kVariationIsotropic = 2;

constexpr int kVariationThreads = 128;  // Of every block.

// Pictures [N, C, H, W]. A thread owns a column, one pixel wide or a pack of 16 bytes, of one channel, and walks down
// a band of rows. The plan may have exchanged H and W, which changes no variation: a row is what lies side by side.
struct VariationParameters {
    const void* pictures;         // The first element of the first picture.
    void* gradient;               // Of the same shape and type; null in the kernels that make none.
    float* value;                 // [N]
    float* partials;              // [N, blocks]; unused where a picture has one block.
    uint32_t* counters;           // [N], zeros that are left zero; null where a second launch sums the partials.
    int64_t batch;
    int64_t channels;
    int64_t height;
    int64_t width;
    int64_t picture_strides[4];   // Between pictures, channels, rows and columns, in elements.
    int64_t gradient_strides[4];
    int64_t columns;              // A picture: channels * width / elements of a column.
    int32_t blocks;               // A picture: column_blocks * bands.
    int32_t column_blocks;        // ceil(columns / kVariationThreads).
    int32_t rows;                 // A band; the last may have fewer.
    int32_t channels_fastest;     // 1: neighbouring threads take neighbouring channels (channels last), 0: columns.
    uint32_t kind;                // For the kernels that serve every kind.
    float eps;                    // Of the isotropic kind, at least the smallest normal number.
};

}  // namespace gantk::kernels

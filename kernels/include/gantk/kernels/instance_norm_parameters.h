// SPDX-License-Identifier: Apache-2.0
// What the kernels of instance normalisation are given.
#pragma once

#include <gantk/kernels/types.h>

namespace gantk::kernels {

constexpr uint32_t kBorderReflect = 0;   // Rows and columns beyond the outermost, in reverse.
constexpr uint32_t kBorderEdge = 1;      // The outermost again.
constexpr uint32_t kBorderConstant = 2;  // Zeros.

constexpr int kNormThreads = 256;      // Of the blocks of `moments` and `apply`.
// Blocks of `finish`: channels by partials. With 64 registers a thread one fits beside two blocks of `moments`.
constexpr int kNormFinishChannels = 16, kNormFinishRows = 32;
constexpr int kNormPixelsAtOnce = 4;   // Of a thread, on their way while one is worked on.

// Pictures [N, H, W, C], channels last, cut from larger ones that lie in blocks: a tensor [N, h, w, b * b * C] holds
// pictures of h * b rows and w * b columns, of which the pixels of each block of b x b follow each other, row by row.
// Its elements are pixels of C channels, one after the other; counted so they are in `block order`.
struct InstanceNormParameters {
    const void* features;    // [N, rows, columns, from^2 * C]
    const void* others;      // [N, H + others_top + ..., W + others_left + ..., C], or null: what is added.
    void* result;            // [N, result_rows, result_columns, to^2 * C]
    const float* scale;      // [C], or [N, C].
    const float* offset;     // Likewise; null for none, where nothing is normalised.
    float* means;            // [N, chunks, C]
    float* squares;          // [N, chunks, C]: sums of the squares of what the mean leaves.
    float* counts;           // [N, chunks]: pixels.
    float* factors;          // [N, 2, C]: the mean, and the factor of what is left; null: pixels stay as they are.
    int64_t picture_pixels;  // rows * columns * from^2.
    int64_t others_stride;   // Between pictures, in elements.
    int64_t result_stride;
    int32_t pictures;
    int32_t channels;
    int32_t columns;     // In blocks.
    int32_t from_shift;  // from = 1 << from_shift; likewise `to`.
    int32_t to_shift;
    int32_t top;  // Of the picture in the larger one; its height and width follow.
    int32_t left;
    int32_t height;
    int32_t width;
    int32_t is_cut;         // Whether the larger one has other pixels.
    int32_t border_top;     // Around the picture in the result; after it zeros, to whole blocks.
    int32_t border_left;
    int32_t framed_height;  // Of the picture with its border.
    int32_t framed_width;
    uint32_t border;
    int32_t result_columns;  // In blocks.
    int32_t others_top;
    int32_t others_left;
    int32_t others_width;
    int32_t chunk;   // Pixels that a block of `moments` sums, in block order.
    int32_t chunks;  // A picture.
    int32_t channel_blocks;
    int32_t run;  // Pixels that a block of `apply` makes, of a row of blocks.
    int32_t scale_stride;  // Between pictures: 0 or `channels`.
    int32_t rectifies;     // Whether negative results become 0.
    float epsilon;
};

}  // namespace gantk::kernels

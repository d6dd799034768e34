// SPDX-License-Identifier: Apache-2.0
// What the kernels of the Gram matrix and the style loss are given. `gantk/kernels/parameters.py` is its twin.
#pragma once

#include <gantk/kernels/types.h>

namespace gantk::kernels {

constexpr int kMaxGramLayers = 8;

// One layer: features F of N pictures, C channels and K places each. The lower triangle of F F^T is cut into square
// tiles, counted row by row (0 is (0, 0), 1 is (1, 0), 2 is (1, 1), ...), and K into slices. Every pair of a tile and
// a slice is one block's work and has its own partial sums, so that their order never depends on timing.
struct GramLayer {
    const void* features;    // The first element of the first picture.
    float* partial;          // [N, splits, tiles, tile, tile], each tile row by row.
    float* gram;             // [N, C, C]: the Gram matrix or, where there is a target, its difference to it.
    const float* target;     // [C, C] for every picture, or null. Need not be symmetric.
    float* squares;          // [N, patches]: sums of squared differences; null where there is no target.
    int64_t places;          // K >= 1.
    int64_t batch_stride;    // Between pictures, channels and places, in elements.
    int64_t channel_stride;
    int64_t place_stride;
    int64_t gram_stride;     // Between pictures of `gram` and of `target` (0: one for all), in elements.
    int64_t target_stride;
    int32_t channels;        // C >= 1.
    int32_t slice;           // Places of a split, a multiple of the kernel's step; the last may have fewer.
    int32_t tile;            // 64 or 128.
    int32_t tiles;           // r (r + 1) / 2 with r = ceil(C / tile).
    int32_t splits;          // ceil(K / slice).
    int32_t first_block;     // Blocks a picture that the partial kernel spends on the layers before this one.
    int32_t first_patch;     // Patches a picture that the layers before this one have, for the reduce kernel.
    int32_t groups;          // In which the reduce kernel's blocks sum splits, 8 or 32.
    int32_t unused;
    int32_t vectorised;      // 1: all rows are contiguous and begin at multiples of 16 bytes; 2: at multiples of 4.
    float scale;             // Gram matrix = scale * F F^T.
    float weight;            // The loss is the sum over layers of weight * sum of squared differences.
};

// A launch has N = gridDim.y pictures. The Gram matrix of one tensor is a group of one layer.
struct GramParameters {
    GramLayer layers[kMaxGramLayers];
    float* loss;             // [N], written by the finish kernel.
    int32_t count;           // Layers, 1 to kMaxGramLayers.
    int32_t unused;
};

// A block of the reduce kernel sums a patch of a tile; the more groups share the splits of each sum, the fewer sums.
// A patch and its mirror image consist of whole 32-byte sectors, or of half ones where they are few.
GANTK_BOTH constexpr int32_t patch_rows(int32_t groups) { return groups == 8 ? 8 : 4; }
GANTK_BOTH constexpr int32_t patch_columns(int32_t groups) { return 2 * patch_rows(groups); }
GANTK_BOTH constexpr int32_t patch_sums(int32_t groups) { return patch_rows(groups) * patch_columns(groups); }

}  // namespace gantk::kernels

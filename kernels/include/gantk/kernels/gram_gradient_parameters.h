// SPDX-License-Identifier: Apache-2.0
// What the kernels of the Gram matrix's gradient are given. `gantk/kernels/parameters.py` is its twin.
#pragma once

#include <gantk/kernels/types.h>

namespace gantk::kernels {

constexpr int kMaxGradientLayers = 8;

// One layer: dF[n] = S[n] F[n], where the slopes S[n] = factor * upstream[n] * (dG[n] + dG[n]^T) are C x C and
// the features F[n] are C x K. Strides are in elements.
struct GramGradientLayer {
    const void* features;    // The first element of the first picture.
    void* result;            // dF, of the type of the features.
    const float* gradient;   // dG; for a style loss the differences G - T.
    const float* upstream;   // [N], the gradient of each picture's loss, or null: 1.
    void* slopes;            // [N, rows, columns], S in the type that is multiplied, 0 beyond C.
    float* units;            // [N, rows], what the rows of float16 slopes are to be multiplied by; else null.
    int64_t places;          // K >= 1.
    int64_t batch_stride;    // Of the features.
    int64_t channel_stride;
    int64_t place_stride;
    int64_t result_batch_stride;
    int64_t result_channel_stride;
    int64_t result_place_stride;
    int64_t gradient_batch_stride;
    int64_t gradient_row_stride;
    int64_t gradient_column_stride;
    int64_t upstream_stride;
    int32_t channels;        // C >= 1.
    int32_t rows;            // C rounded up to whole tiles.
    int32_t columns;         // C rounded up to whole steps of the sum.
    int32_t span;            // Tiles of places that one block goes through, one after the other.
    int32_t resident;        // 1: the slopes of a block's rows stay in shared memory; 0: they come with each step.
    int32_t load_bytes;      // The features' accesses: 16, 4, or less: one element.
    int32_t vectorised;      // 1: four neighbours of the result are stored at once.
    int32_t first_strip;     // Blocks a picture that the slopes' kernel spends on the layers before this one.
    int32_t first_block;     // The same of the gradient's kernel.
    float factor;
};

// A launch has N = gridDim.y pictures. The gradient of one Gram matrix is a group of one layer.
struct GramGradientParameters {
    GramGradientLayer layers[kMaxGradientLayers];
    int32_t count;           // Layers, 1 to kMaxGradientLayers.
    int32_t unused;
};

}  // namespace gantk::kernels

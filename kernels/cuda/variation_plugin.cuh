// SPDX-License-Identifier: Apache-2.0
// The total variation for callers that pass pointers and 32-bit integers alone; see `gram_plugin.cuh`.
#pragma once

#include "variation.cuh"

namespace gantk::kernels {

// Contiguous pictures [gridDim.y, channels, height, width] in columns of `pixels`; the sums of blocks are an output of
// their own, [gridDim.y, blocks], whose sum is another kernel's work.
__device__ inline VariationParameters plugin_variation(const void* pictures, int channels, int height, int width,
                                                       int rows, float* partials, void* gradient, int pixels,
                                                       uint32_t kind, float eps) {
    VariationParameters p{};
    p.pictures = pictures;
    p.gradient = gradient;
    p.value = partials;  // Of a picture of one block they are one number.
    p.partials = partials;
    p.batch = gridDim.y;
    p.channels = channels;
    p.height = height;
    p.width = width;
    const int64_t strides[4] = {int64_t(channels) * height * width, int64_t(height) * width, width, 1};
    for (int axis = 0; axis < 4; ++axis) p.picture_strides[axis] = p.gradient_strides[axis] = strides[axis];
    p.columns = int64_t(channels) * (width / pixels);
    p.column_blocks = int32_t((p.columns + kThreads - 1) / kThreads);
    p.blocks = p.column_blocks * ((height + rows - 1) / rows);
    p.rows = rows;
    p.kind = kind;
    p.eps = eps;
    return p;
}

}  // namespace gantk::kernels

#define GANTK_PLUGIN_VARIATION(name, Kind, Rows, kind, eps)                                                \
    extern "C" __global__ void __launch_bounds__(kThreads)                                                \
        name(const void* pictures, int channels, int height, int width, int rows, float* partials,        \
             void* gradient) {                                                                            \
        variation<Kind, Rows, true>(plugin_variation(pictures, channels, height, width, rows, partials,   \
                                                     gradient, Rows::kPixels, kind, eps));                \
    }

#define GANTK_PLUGIN_VARIATION_FINISH(name)                                     \
    extern "C" __global__ void __launch_bounds__(kThreads)                      \
        name(const float* partials, int blocks, float* value) {                 \
        VariationParameters p{};                                                \
        p.partials = const_cast<float*>(partials);                              \
        p.blocks = blocks;                                                      \
        p.value = value;                                                        \
        finish(p, blockIdx.y);                                                  \
    }

// SPDX-License-Identifier: Apache-2.0
// The second stage of the Gram matrix: sums the splits in a fixed order, scales, mirrors; for the style loss it
// also subtracts the target and sums squares. Memory-bound; its reads mostly hit L2, where the partial sums are.
#pragma once

#include "gram_work.cuh"

namespace gantk::kernels {

constexpr int32_t kReduceThreads = 256;
constexpr int32_t kPatch = kPatchRows * kPatchColumns;
constexpr int32_t kSplitGroups = kReduceThreads * 4 / kPatch;  // Each thread sums four neighbours of every 8th split.
static_assert(kSplitGroups == 8 && kReduceThreads == 2 * kPatch);

// The sum of `value` over the block, in an order that is always the same; valid in thread 0.
GANTK_DEVICE float block_sum(float value, float (&warps)[kReduceThreads / 32]) {
    for (int32_t distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = value;
    __syncthreads();
    float sum = 0.0f;
    for (int32_t warp = 0; warp < kReduceThreads / 32; ++warp) sum += warps[warp];
    return sum;
}

// One block a patch of a tile: warp g sums splits g, g + 8, ...; then half of the threads write the patch and the
// other half its mirror image, each in rows of whole sectors.
GANTK_DEVICE void gram_reduce(const GramParameters& p) {
    __shared__ float sums[kSplitGroups][kPatchRows][kPatchColumns];
    __shared__ float warps[kReduceThreads / 32];
    int32_t index = 0;
    while (index + 1 < p.count && static_cast<int32_t>(blockIdx.x) >= p.layers[index + 1].first_patch) ++index;
    const GramLayer& layer = p.layers[index];
    const int32_t number = blockIdx.x - layer.first_patch, patches = layer.tile * layer.tile / kPatch;
    const int32_t tile = number / patches, patch = number % patches, across = layer.tile / kPatchColumns;
    const int32_t tile_row = triangle_row(tile), tile_column = tile - tile_row * (tile_row + 1) / 2;
    const int32_t row_in_tile = patch / across * kPatchRows, column_in_tile = patch % across * kPatchColumns;
    const int32_t first_row = tile_row * layer.tile + row_in_tile;
    const int32_t first_column = tile_column * layer.tile + column_in_tile;
    const int32_t channels = layer.channels, thread = threadIdx.x;
    float* squares = layer.squares + static_cast<int64_t>(blockIdx.y) * layer.tiles * patches + number;
    if (first_row >= channels || first_column >= channels || first_column >= first_row + kPatchRows) {
        if (layer.target != nullptr && thread == 0) *squares = 0.0f;
        return;  // Outside of the matrix or above its diagonal, where partial sums were never written.
    }

    const int64_t area = static_cast<int64_t>(layer.tile) * layer.tile, stride = layer.tiles * area;
    const int32_t row = thread % 32 / 4, column = thread % 4 * 4, group = thread / 32;
    const float* from = layer.partial + (static_cast<int64_t>(blockIdx.y) * layer.splits * layer.tiles + tile) * area +
                        (row_in_tile + row) * layer.tile + column_in_tile + column;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 4
    for (int32_t split = group; split < layer.splits; split += kSplitGroups) {
        const float4 part = __ldcs(reinterpret_cast<const float4*>(from + split * stride));
        sum.x += part.x;
        sum.y += part.y;
        sum.z += part.z;
        sum.w += part.w;
    }
    *reinterpret_cast<float4*>(&sums[group][row][column]) = sum;
    __syncthreads();

    const bool mirrored = thread >= kPatch;
    const int32_t r = mirrored ? thread % kPatchRows : thread / kPatchColumns;
    const int32_t c = mirrored ? (thread - kPatch) / kPatchRows : thread % kPatchColumns;
    float value = 0.0f;
    for (int32_t g = 0; g < kSplitGroups; g += 2) value += sums[g][r][c] + sums[g + 1][r][c];
    value *= layer.scale;
    const int32_t i = first_row + r, j = first_column + c;
    const bool wanted = i < channels && (mirrored ? j < i : j <= i);
    float square = 0.0f;
    if (wanted) {
        const int64_t place = mirrored ? static_cast<int64_t>(j) * channels + i : static_cast<int64_t>(i) * channels + j;
        if (layer.target != nullptr) {
            value -= layer.target[blockIdx.y * layer.target_stride + place];
            square = value * value;
        }
        layer.gram[blockIdx.y * layer.gram_stride + place] = value;
    }
    if (layer.target == nullptr) return;
    const float total = block_sum(square, warps);
    if (thread == 0) *squares = total;
}

// The style loss of a picture: one block, the sums of squares of all layers in a fixed order.
GANTK_DEVICE void gram_finish(const GramParameters& p) {
    __shared__ float warps[kReduceThreads / 32];
    float loss = 0.0f;
    for (int32_t index = 0; index < p.count; ++index) {
        const GramLayer& layer = p.layers[index];
        const int32_t patches = layer.tiles * (layer.tile * layer.tile / kPatch);
        const float* from = layer.squares + static_cast<int64_t>(blockIdx.y) * patches;
        float sum = 0.0f;
        for (int32_t i = threadIdx.x; i < patches; i += kReduceThreads) sum += from[i];
        loss += layer.weight * sum;
    }
    const float total = block_sum(loss, warps);
    if (threadIdx.x == 0) p.loss[blockIdx.y] = total;
}

}  // namespace gantk::kernels

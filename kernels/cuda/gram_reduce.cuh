// SPDX-License-Identifier: Apache-2.0
// The second stage of the Gram matrix: sums the splits in a fixed order, scales, mirrors; for the style loss it
// also subtracts the target and sums squares. Memory-bound; its reads mostly hit L2, where the partial sums are.
#pragma once

#include "gram_work.cuh"

namespace gantk::kernels {

constexpr int32_t kReduceThreads = 256;
// What a block sums where kGroups groups of its threads share the splits: each thread four neighbours.
template <int32_t kGroups>
struct Patch {
    static constexpr int32_t kRows = patch_rows(kGroups), kColumns = patch_columns(kGroups), kSums = kRows * kColumns;
    static_assert(kReduceThreads * 4 == kGroups * kSums);
};

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

// Group g sums splits g, g + kGroups, ...; then as many threads as there are sums write the patch and as many its
// mirror image, each row by row.
template <int32_t kGroups>
GANTK_DEVICE void reduce_patch(const GramLayer& layer, int32_t number) {
    using Patch = Patch<kGroups>;
    __shared__ float sums[kGroups][Patch::kRows][Patch::kColumns];
    __shared__ float warps[kReduceThreads / 32];
    const int32_t patches = layer.tile * layer.tile / Patch::kSums, across = layer.tile / Patch::kColumns;
    const int32_t tile = number / patches, patch = number % patches;
    const int32_t tile_row = triangle_row(tile), tile_column = tile - tile_row * (tile_row + 1) / 2;
    const int32_t row_in_tile = patch / across * Patch::kRows, column_in_tile = patch % across * Patch::kColumns;
    const int32_t first_row = tile_row * layer.tile + row_in_tile;
    const int32_t first_column = tile_column * layer.tile + column_in_tile;
    const int32_t channels = layer.channels, thread = threadIdx.x;
    float* squares = layer.squares + static_cast<int64_t>(blockIdx.y) * layer.tiles * patches + number;
    if (first_row >= channels || first_column >= channels || first_column >= first_row + Patch::kRows) {
        if (layer.target != nullptr && thread == 0) *squares = 0.0f;
        return;  // Outside of the matrix or above its diagonal, where partial sums were never written.
    }

    const int64_t area = static_cast<int64_t>(layer.tile) * layer.tile, stride = layer.tiles * area;
    const int32_t four = thread % (Patch::kSums / 4), group = thread / (Patch::kSums / 4);
    const int32_t row = four / (Patch::kColumns / 4), column = four % (Patch::kColumns / 4) * 4;
    const float* from = layer.partial + (static_cast<int64_t>(blockIdx.y) * layer.splits * layer.tiles + tile) * area +
                        (row_in_tile + row) * layer.tile + column_in_tile + column;
    float4 sum = make_float4(0.0f, 0.0f, 0.0f, 0.0f);
#pragma unroll 8
    for (int32_t split = group; split < layer.splits; split += kGroups) {
        const float4 part = __ldcs(reinterpret_cast<const float4*>(from + split * stride));
        sum.x += part.x;
        sum.y += part.y;
        sum.z += part.z;
        sum.w += part.w;
    }
    *reinterpret_cast<float4*>(&sums[group][row][column]) = sum;
    __syncthreads();

    const bool mirrored = thread >= Patch::kSums;
    const int32_t r = mirrored ? thread % Patch::kRows : thread / Patch::kColumns;
    const int32_t c = mirrored ? (thread - Patch::kSums) / Patch::kRows : thread % Patch::kColumns;
    const int32_t i = first_row + r, j = first_column + c;
    const bool wanted = thread < 2 * Patch::kSums && i < channels && (mirrored ? j < i : j <= i);
    float square = 0.0f;
    if (wanted) {
        float value = 0.0f;
#pragma unroll
        for (int32_t g = 0; g < kGroups; g += 2) value += sums[g][r][c] + sums[g + 1][r][c];
        value *= layer.scale;
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

GANTK_DEVICE void gram_reduce(const GramParameters& p) {
    int32_t index = 0;
    while (index + 1 < p.count && static_cast<int32_t>(blockIdx.x) >= p.layers[index + 1].first_patch) ++index;
    const GramLayer& layer = p.layers[index];
    const int32_t number = blockIdx.x - layer.first_patch;
    if (layer.groups == 8) {
        reduce_patch<8>(layer, number);
    } else {
        reduce_patch<32>(layer, number);
    }
}

// The style loss of a picture: one block, the sums of squares of all layers in a fixed order.
GANTK_DEVICE void gram_finish(const GramParameters& p) {
    __shared__ float warps[kReduceThreads / 32];
    float loss = 0.0f;
    for (int32_t index = 0; index < p.count; ++index) {
        const GramLayer& layer = p.layers[index];
        const int32_t patches = layer.tiles * (layer.tile * layer.tile / patch_sums(layer.groups));
        const float* from = layer.squares + static_cast<int64_t>(blockIdx.y) * patches;
        float sum = 0.0f;
        for (int32_t i = threadIdx.x; i < patches; i += kReduceThreads) sum += from[i];
        loss += layer.weight * sum;
    }
    const float total = block_sum(loss, warps);
    if (threadIdx.x == 0) p.loss[blockIdx.y] = total;
}

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// Which part of the Gram matrices a block computes, the same for every partial kernel.
#pragma once

#include <gantk/kernels/gram_parameters.h>

#include "primitives.cuh"

namespace gantk::kernels {

// A tile of the lower triangle and a slice of the places. Blocks of one slice are neighbours, so that the strips
// that their tiles share are read from L2.
struct GramWork {
    const GramLayer& layer;
    int32_t tile, split;
    int32_t first_row, first_column;  // In channels.
    int64_t first_place;
    int32_t places;  // Of the slice.

    GANTK_DEVICE const void* picture(int32_t element_bytes) const {
        return static_cast<const char*>(layer.features) + blockIdx.y * layer.batch_stride * element_bytes;
    }

    // This block's partial sums, a whole tile row by row.
    GANTK_DEVICE float* partial() const {
        const int64_t index = (static_cast<int64_t>(blockIdx.y) * layer.splits + split) * layer.tiles + tile;
        return layer.partial + index * layer.tile * layer.tile;
    }

    GANTK_DEVICE int32_t steps(int32_t step) const {
        return (places + step - 1) / step;
    }

    GANTK_DEVICE bool diagonal() const { return first_row == first_column; }
};

// The row of the triangle that holds its tile number `tile`.
GANTK_DEVICE int32_t triangle_row(int32_t tile) {
    int32_t row = 0;
    while ((row + 1) * (row + 2) / 2 <= tile) ++row;
    return row;
}

GANTK_DEVICE GramWork gram_work(const GramParameters& p) {
    int32_t index = 0;
    while (index + 1 < p.count && static_cast<int32_t>(blockIdx.x) >= p.layers[index + 1].first_block) ++index;
    const GramLayer& layer = p.layers[index];
    const int32_t block = blockIdx.x - layer.first_block;
    const int32_t split = block / layer.tiles, tile = block % layer.tiles;
    const int32_t row = triangle_row(tile), column = tile - row * (row + 1) / 2;
    const int64_t first = static_cast<int64_t>(split) * layer.slice, left = layer.places - first;
    const int32_t places = left < layer.slice ? static_cast<int32_t>(left) : layer.slice;
    return {layer, tile, split, row * layer.tile, column * layer.tile, first, places};
}

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// The Gram matrix for callers that pass pointers and 32-bit integers alone, as TensorRT's quick deployable plugins do:
// each kernel fills the structure that the operation takes. Which ones there are is decided where they are compiled,
// in `gantk/kernels/tensorrt_source.py`; of sizes, what a graph leaves open comes as an argument.
#pragma once

#define GANTK_GRAM_STAGES 2  // What these callers cannot do is ask for more than 48 KiB of shared memory.

#include "gram_mma.cuh"
#include "gram_reduce.cuh"
#include "gram_simt.cuh"

namespace gantk::kernels {

// Contiguous features [gridDim.y, channels, places], whose Gram matrices are cut into tiles of `tile` rows.
GANTK_DEVICE GramParameters plugin_gram(int32_t channels, int32_t places, int32_t splits, int32_t tile) {
    GramParameters p{};
    p.count = 1;
    GramLayer& layer = p.layers[0];
    const int32_t rows = (channels + tile - 1) / tile;
    layer.channels = channels;
    layer.places = places;
    layer.batch_stride = static_cast<int64_t>(channels) * places;
    layer.channel_stride = places;
    layer.place_stride = 1;
    layer.gram_stride = static_cast<int64_t>(channels) * channels;
    layer.tile = tile;
    layer.tiles = rows * (rows + 1) / 2;
    layer.splits = splits;
    return p;
}

template <class Element>
GANTK_DEVICE GramParameters plugin_partial(const Element* features, int32_t channels, int32_t places, int32_t slice,
                                           int32_t splits, float* partial, int32_t tile) {
    GramParameters p = plugin_gram(channels, places, splits, tile);
    GramLayer& layer = p.layers[0];
    layer.features = features;
    layer.partial = partial;
    layer.slice = slice;
    layer.vectorised = places % (16 / static_cast<int32_t>(sizeof(Element))) == 0;  // TensorRT aligns its tensors.
    return p;
}

// `scale` of 0 stands for 1 / places.
GANTK_DEVICE GramParameters plugin_reduce(const float* partial, int32_t channels, int32_t places, int32_t splits,
                                          float* gram, int32_t tile, int32_t groups, float scale) {
    GramParameters p = plugin_gram(channels, places, splits, tile);
    GramLayer& layer = p.layers[0];
    layer.partial = const_cast<float*>(partial);
    layer.gram = gram;
    layer.groups = groups;
    layer.scale = scale != 0.0f ? scale : 1.0f / places;
    return p;
}

}  // namespace gantk::kernels

// The last arguments are what to call with the structure, such as gram_partial_mma<MmaExact, true, 64>.
#define GANTK_PLUGIN_PARTIAL(name, Element, tile, threads, blocks, ...)                                    \
    extern "C" __global__ void __launch_bounds__(threads, blocks)                                         \
        name(const Element* features, int channels, int places, int slice, int splits, float* partial) {  \
        __VA_ARGS__(plugin_partial<Element>(features, channels, places, slice, splits, partial, tile));   \
    }

// The features are there for their shape.
#define GANTK_PLUGIN_REDUCE(name, tile, groups, scale)                                                 \
    extern "C" __global__ void __launch_bounds__(kReduceThreads)                                       \
        name(const float* partial, const void*, int channels, int places, int splits, float* gram) {   \
        gram_reduce(plugin_reduce(partial, channels, places, splits, gram, tile, groups, scale));      \
    }

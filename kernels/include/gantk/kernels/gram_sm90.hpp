// SPDX-License-Identifier: Apache-2.0
// How Hopper's Gram kernels (gram_sm90.cu) cut layers up. Host only.
// The twin of `toolkit/gantk/kernels/gram_sm90.py`, where everything is explained; a test holds both equal.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include <gantk/kernels/gram_sm90_parameters.h>
#include <gantk/kernels/gram_variants.hpp>

namespace gantk::kernels {

constexpr int64_t kSm90Tile = 64, kSm90SharedBytes = 24 * 64 * 128 + 1024;

struct Sm90Cut {
    int64_t pieces = 0, slice = 0, blocks = 0, splits = 0;
};

namespace detail {

constexpr int64_t kSm90MostSlice = int64_t{1} << 30, kSm90MostPlaces = (int64_t{1} << 31) - 256;
constexpr int64_t kSm90MemoryPs = 31400, kSm90L2Ps = 24000, kSm90PartialPs = 150, kSm90BlockPs = 3000000;

inline int64_t up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// Whether features are dense along an axis (1 channels, 2 places), and all others' pitches multiples of 16 bytes.
inline bool sm90_are_lines(const Features& features, int dense) {
    const auto even = [&](int64_t count, int64_t stride) {
        const int64_t pitch = stride * element_bytes(features.element);
        return count == 1 || (pitch % 16 == 0 && 0 < pitch && pitch < int64_t{1} << 40);
    };
    const bool last = dense == 1;
    const bool is_dense = (last ? features.channel_stride : features.place_stride) == 1 ||
                          (last ? features.channels : features.places) == 1;
    return is_dense && even(features.pictures, features.batch_stride) &&
           (last ? even(features.places, features.place_stride) : even(features.channels, features.channel_stride));
}

// 2: along places, 1: along channels, 0: neither.
inline int sm90_layout(const Features& features) {
    if (sm90_are_lines(features, 2)) return 2;
    return features.element != Element::float32 && sm90_are_lines(features, 1) ? 1 : 0;
}

inline bool sm90_takes(const Features& features, const Device& device, Precision precision) {
    return device.major == 9 && device.minor == 0 && device.shared_bytes >= kSm90SharedBytes &&
           (features.element != Element::float32 || precision == Precision::tf32) && features.alignment == 16 &&
           features.places <= kSm90MostPlaces && sm90_layout(features) != 0;
}

inline GramVariant sm90_variant(const Features& features) {
    const bool single = features.element == Element::float32;
    const std::string name = single ? "tf32" : features.element == Element::float16 ? "f16" : "bf16";
    const char* layout = sm90_layout(features) == 1 ? "_nhwc" : "_nchw";
    return {"gram_sm90", "gantk_gram_sm90_" + name + layout, int32_t(kSm90Tile),
            kGramStepBytes / element_bytes(features.element), 384, int32_t(kSm90SharedBytes), 1, 0, 0};
}

inline int64_t sm90_step(const Features& features) {
    return kGramStepBytes / element_bytes(features.element) * (features.channels <= kSm90Tile ? 2 : 1);
}

inline int64_t sm90_tiles(const Features& features) {
    const int64_t rows = up(features.channels, kSm90Tile);
    return rows * (rows + 1) / 2;
}

inline int64_t sm90_pieces(const Features& features) {
    const int64_t bands = up(features.channels, 256), rows = up(features.channels, 128);
    return bands + bands * (bands - 1) - (2 * bands - rows) * (bands - 1);
}

inline int64_t sm90_step_ps(const Features& features, int64_t busy, int64_t multiprocessors) {
    const int64_t channels = features.channels;
    const int64_t share = std::max(5 * busy, 3 * multiprocessors), whole = 5 * multiprocessors;
    const auto slower = [&](int64_t products_ps, int64_t bytes_ps) {
        return std::max(products_ps, bytes_ps * share / whole);
    };
    if (channels <= 64) return slower(150000, channels * kSm90MemoryPs / 4);
    if (channels <= 128) return slower(225000, channels * kSm90MemoryPs / 8);
    if (channels <= 256) return slower(750000, channels * kSm90MemoryPs / 8);
    return slower(750000, 48 * kSm90L2Ps);
}

inline Sm90Cut sm90_cut(const Features& features, int64_t step_ps, int64_t block_ps) {
    const int64_t step = sm90_step(features), steps = up(features.places, step);
    const int64_t most = std::min(std::max<int64_t>(1, block_ps / step_ps), kSm90MostSlice / step);
    const int64_t each = up(steps, up(steps, most)), blocks = up(steps, each);
    return {sm90_pieces(features), each * step, blocks, blocks * (features.channels <= kSm90Tile ? 2 : 1)};
}

inline std::vector<Sm90Cut> sm90_within(const std::vector<Features>& layers, const std::vector<int64_t>& steps_ps,
                                        int64_t room) {
    const auto cuts_of = [&](int64_t block_ps) {
        std::vector<Sm90Cut> cuts;
        for (size_t i = 0; i < layers.size(); ++i) cuts.push_back(sm90_cut(layers[i], steps_ps[i], block_ps));
        return cuts;
    };
    const auto fits = [&](int64_t block_ps) {
        int64_t blocks = 0;
        for (const Sm90Cut& each : cuts_of(block_ps)) blocks += each.pieces * each.blocks;
        return blocks <= room;
    };
    int64_t low = 1, high = 1;
    for (size_t i = 0; i < layers.size(); ++i) {
        high = std::max(high, up(layers[i].places, sm90_step(layers[i])) * steps_ps[i]);
    }
    while (low < high) {
        const int64_t middle = (low + high) / 2;
        if (fits(middle)) {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    return cuts_of(low);
}

inline std::vector<Sm90Cut> sm90_cuts(const std::vector<Features>& layers, const Device& device, int64_t pictures) {
    std::vector<Sm90Cut> best;
    int64_t least = 0;
    for (const int64_t half_waves : {1, 2, 4, 6, 8}) {
        const int64_t room = std::max<int64_t>(1, device.multiprocessors * half_waves / (2 * pictures));
        const int64_t busy = std::min<int64_t>(device.multiprocessors, room * pictures);
        std::vector<int64_t> steps_ps;
        for (const Features& layer : layers) steps_ps.push_back(sm90_step_ps(layer, busy, device.multiprocessors));
        std::vector<Sm90Cut> cuts = sm90_within(layers, steps_ps, room);
        int64_t blocks = 0, longest = 0, sums = 0;
        for (size_t i = 0; i < layers.size(); ++i) {
            blocks += cuts[i].pieces * cuts[i].blocks;
            longest = std::max(longest, cuts[i].slice / sm90_step(layers[i]) * steps_ps[i]);
            sums += sm90_tiles(layers[i]) * kSm90Tile * cuts[i].splits;
        }
        const int64_t waves = up(blocks * pictures, device.multiprocessors);
        const int64_t cost = waves * (longest + kSm90BlockPs) + sums * pictures * kSm90PartialPs;
        if (best.empty() || cost < least) {
            best = std::move(cuts);
            least = cost;
        }
    }
    return best;
}

inline TensorMap sm90_map(const Features& features, const void* address, int64_t pictures, int64_t index) {
    const int64_t size = element_bytes(features.element);
    const bool last = sm90_layout(features) == 1;
    const int64_t across = last ? features.channels : features.places;
    const int64_t lines = last ? features.places : features.channels;
    const int64_t stride = last ? features.place_stride : features.channel_stride;
    const int64_t pitch = lines > 1 ? stride * size : up(across * size, 16) * 16;
    const int64_t picture = features.pictures > 1 ? features.batch_stride * size : pitch * lines;
    TensorMap map;
    map.offset = int32_t(offsetof(GramSm90Parameters, maps) + index * sizeof(FeatureMap));
    map.address = reinterpret_cast<uint64_t>(address);
    map.element = features.element;
    map.as_tf32 = features.element == Element::float32;
    map.sizes = {uint64_t(across), uint64_t(lines), uint64_t(pictures)};
    map.strides_bytes = {uint64_t(pitch), uint64_t(picture)};
    map.box = {uint32_t(kGramStepBytes / size), uint32_t(last || features.channels <= kSm90Tile ? 64 : 128), 1};
    return map;
}

// The launch of the partial sums of some pictures; sets each layer's first block.
inline Launch sm90_launch(const std::vector<Features>& layers, const std::vector<Sm90Cut>& cuts,
                          std::vector<GramLayer> filled, int64_t pictures) {
    GramSm90Parameters parameters{};
    Launch launch;
    int64_t blocks = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
        filled[i].first_block = int32_t(blocks);
        blocks += cuts[i].pieces * cuts[i].blocks;
        parameters.gram.layers[i] = filled[i];
        launch.tensor_maps.push_back(sm90_map(layers[i], filled[i].features, pictures, int64_t(i)));
    }
    parameters.gram.count = int32_t(layers.size());
    const GramVariant variant = sm90_variant(layers[0]);
    launch.unit = variant.unit;
    launch.kernel = variant.kernel;
    launch.grid = {uint32_t(blocks), uint32_t(pictures), 1};
    launch.block = {uint32_t(variant.threads), 1, 1};
    launch.shared_bytes = uint32_t(kSm90SharedBytes);
    launch.parameters = bytes_of(parameters);
    return launch;
}

}  // namespace detail

}  // namespace gantk::kernels

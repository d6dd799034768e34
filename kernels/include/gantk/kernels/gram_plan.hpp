// SPDX-License-Identifier: Apache-2.0
// Chooses kernels, tiles and slices for Gram matrices and the style loss. Host only.
// The twin of `toolkit/gantk/kernels/gram_plan.py`, where everything is explained; a test holds both equal.
#pragma once

#include <algorithm>
#include <vector>

#include <gantk/kernels/gram_parameters.h>
#include <gantk/kernels/gram_sm90.hpp>
#include <gantk/kernels/gram_variants.hpp>

namespace gantk::kernels {

constexpr uint32_t kGramReduceThreads = 256;
constexpr int64_t kMostChannels = 65536, kMostPictures = 65535, kMostSlice = int64_t{1} << 30;
constexpr int64_t kMostGridBlocks = (int64_t{1} << 31) - 1, kGramWorkspaceBytes = int64_t{1} << 27;
constexpr int64_t kWavePs = 2000000, kPartialPs = 150, kManySplits = 64, kBlockBytes = 1024, kGramAlignment = 256;

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

struct GramLayerPlan {
    Features features;
    GramVariant variant;
    int64_t tiles = 0, slice = 0, splits = 0, partial_offset = 0, squares_offset = 0;
    Sm90Cut hopper;  // pieces is 0 where the kernel is none of gram_sm90.

    int64_t area() const { return int64_t{variant.tile} * variant.tile; }
    int64_t blocks() const { return tiles * splits; }
    int32_t groups() const { return splits < kManySplits ? 8 : 32; }
    int64_t patches() const { return tiles * (area() / patch_sums(groups())); }
};

// What the launches of a layer are given besides the plan; addresses are of the device.
struct GramLayerData {
    const void* features = nullptr;
    float* gram = nullptr;
    double scale = 0;         // 0 stands for 1 / K.
    int64_t gram_stride = 0;  // 0 stands for C * C.
    // With a plan of the style loss:
    const float* target = nullptr;
    int64_t target_stride = 0;
    double weight = 0;  // Of the mean square of the C * C differences.
};

struct GramPlan {
    std::vector<GramLayerPlan> layers;
    int64_t pictures = 0, at_once = 0, workspace_bytes = 0;
    bool style = false;

    std::vector<Launch> launches(const std::vector<GramLayerData>& data, void* workspace, float* loss = nullptr) const;

private:
    std::vector<GramLayer> filled(const std::vector<GramLayerData>& data, char* workspace, int64_t first) const;
    void add_chunk(std::vector<GramLayer> filled, int64_t count, float* loss, std::vector<Launch>& launches) const;
};

namespace detail {

inline GramLayerPlan sliced(GramLayerPlan layer, int64_t size) {
    const int64_t step = layer.variant.step, places = layer.features.places;
    size = std::min(divide_up(size, step) * step, kMostSlice);
    const int64_t even = divide_up(places, divide_up(places, size));
    layer.slice = divide_up(even, step) * step;
    layer.splits = divide_up(places, layer.slice);
    return layer;
}

inline int64_t all_blocks(const std::vector<GramLayerPlan>& layers, int64_t pictures) {
    int64_t blocks = 0;
    for (const GramLayerPlan& layer : layers) blocks += layer.blocks();
    return blocks * pictures;
}

inline std::vector<GramLayerPlan> all_sliced(std::vector<GramLayerPlan> layers, int64_t size) {
    for (GramLayerPlan& layer : layers) layer = sliced(layer, size);
    return layers;
}

inline int64_t resident(const std::vector<GramLayerPlan>& layers, const Device& device) {
    int64_t strips = 1, fewest = layers.front().variant.resident;
    for (const GramLayerPlan& layer : layers) strips = std::max(strips, std::min<int64_t>(layer.tiles, 2));
    for (const GramLayerPlan& layer : layers) {
        const int64_t bytes = layer.variant.stage_bytes * strips + kBlockBytes;
        fewest = std::min({fewest, int64_t{layer.variant.resident}, (device.shared_bytes + kBlockBytes) / bytes});
    }
    return std::max<int64_t>(1, fewest);
}

inline double cost(const std::vector<GramLayerPlan>& layers, const Device& device, int64_t pictures) {
    const int64_t blocks = all_blocks(layers, pictures), multiprocessors = device.multiprocessors;
    double work = 0, longest = 0, rows = 0;
    for (const GramLayerPlan& layer : layers) {
        work += double(layer.tiles) * double(layer.features.places) * double(layer.variant.place_ps);
        longest = std::max(longest, double(layer.slice) * double(layer.variant.lone_place_ps));
        rows += double(layer.blocks()) * double(layer.area() / 64);
    }
    const double waves = double(divide_up(blocks, multiprocessors * resident(layers, device)));
    const double busy = work * double(pictures) * double(divide_up(blocks, multiprocessors)) / double(blocks);
    return std::max(busy, longest * waves) + waves * double(kWavePs) + rows * double(pictures) * double(kPartialPs);
}

inline std::vector<GramLayerPlan> with_tile(const std::vector<Features>& layers, const Device& device,
                                            Precision precision, int64_t pictures, int32_t tile) {
    std::vector<GramLayerPlan> uncut;
    int64_t most = 1;
    for (const Features& features : layers) {
        GramLayerPlan layer;
        layer.features = features;
        layer.variant = gram_variant(features, device, precision, tile);
        const int64_t rows = divide_up(features.channels, layer.variant.tile);
        layer.tiles = rows * (rows + 1) / 2;
        uncut.push_back(layer);
        most = std::max(most, features.places);
    }
    std::vector<GramLayerPlan> best;
    for (int64_t each = 1; each <= 2 * resident(uncut, device); ++each) {
        int64_t low = 1, high = std::min(kMostSlice, most);
        while (low < high) {
            const int64_t middle = (low + high) / 2;
            const bool enough = all_blocks(all_sliced(uncut, middle), pictures) <= each * device.multiprocessors;
            (enough ? high : low) = enough ? middle : middle + 1;
        }
        std::vector<GramLayerPlan> plans = all_sliced(uncut, high);
        if (best.empty() || cost(plans, device, pictures) < cost(best, device, pictures)) best = std::move(plans);
    }
    return best;
}

inline std::vector<GramLayerPlan> on_hopper(const std::vector<Features>& layers, const Device& device,
                                            int64_t pictures) {
    const std::vector<Sm90Cut> cuts = sm90_cuts(layers, device, pictures);
    std::vector<GramLayerPlan> plans;
    for (size_t i = 0; i < layers.size(); ++i) {
        GramLayerPlan plan;
        plan.features = layers[i];
        plan.variant = sm90_variant(layers[i]);
        plan.tiles = sm90_tiles(layers[i]);
        plan.slice = cuts[i].slice;
        plan.splits = cuts[i].splits;
        plan.hopper = cuts[i];
        plans.push_back(plan);
    }
    return plans;
}

inline std::vector<GramLayerPlan> cut(const std::vector<Features>& layers, const Device& device, Precision precision,
                                      int64_t pictures) {
    if (std::all_of(layers.begin(), layers.end(),
                    [&](const Features& layer) { return sm90_takes(layer, device, precision); })) {
        return on_hopper(layers, device, pictures);
    }
    std::vector<GramLayerPlan> large = with_tile(layers, device, precision, pictures, 128);
    std::vector<GramLayerPlan> small = with_tile(layers, device, precision, pictures, 64);
    bool fits = true;
    for (const GramLayerPlan& layer : large) {
        fits = fits && layer.variant.stage_bytes * std::min<int64_t>(layer.tiles, 2) <= device.shared_bytes;
    }
    return fits && cost(large, device, pictures) < cost(small, device, pictures) ? large : small;
}

inline int64_t aligned(int64_t size) { return divide_up(size, kGramAlignment) * kGramAlignment; }

// Gives every layer its part of the workspace; returns how much that is in all.
inline int64_t place(std::vector<GramLayerPlan>& layers, int64_t pictures, bool style) {
    int64_t end = 0;
    for (GramLayerPlan& layer : layers) {
        layer.partial_offset = end;
        layer.squares_offset = end + aligned(pictures * layer.blocks() * layer.area() * 4);
        end = layer.squares_offset + (style ? aligned(pictures * layer.patches() * 4) : 0);
    }
    return end;
}

inline void check(const std::vector<Features>& layers) {
    const auto fail = [](const std::string& text) { throw PlanError(text); };
    if (layers.empty() || layers.size() > kMaxGramLayers) {
        fail("there are " + std::to_string(layers.size()) + " layers; 1 to 8 go into one launch");
    }
    for (const Features& layer : layers) {
        if (std::min({layer.pictures, layer.channels, layer.places}) < 1) fail("features without elements");
        if (layer.pictures != layers[0].pictures) fail("layers are of different numbers of pictures");
        if (layer.channels > kMostChannels) {
            fail("features have " + std::to_string(layer.channels) + " channels; at most 65536 are allowed");
        }
    }
}

}  // namespace detail

inline GramPlan plan_gram(const std::vector<Features>& layers, const Device& device, Precision precision,
                          bool style = false) {
    detail::check(layers);
    GramPlan plan;
    plan.pictures = layers[0].pictures;
    plan.style = style;
    plan.at_once = std::min(plan.pictures, kMostPictures);
    for (;;) {
        plan.layers = detail::cut(layers, device, precision, plan.at_once);
        plan.workspace_bytes = detail::place(plan.layers, plan.at_once, style);
        if (plan.workspace_bytes <= kGramWorkspaceBytes || plan.at_once == 1) break;
        const int64_t fitting = plan.at_once * kGramWorkspaceBytes / plan.workspace_bytes;
        plan.at_once = std::max<int64_t>(1, std::min(plan.at_once - 1, fitting));
    }
    for (const GramLayerPlan& layer : plan.layers) {
        if (std::max(layer.blocks(), layer.patches()) > kMostGridBlocks) {
            throw PlanError("features want more blocks than a launch may have");
        }
    }
    return plan;
}

inline std::vector<GramLayer> GramPlan::filled(const std::vector<GramLayerData>& data, char* workspace,
                                               int64_t first) const {
    std::vector<GramLayer> filled;
    for (size_t i = 0; i < layers.size(); ++i) {
        const GramLayerPlan& layer = layers[i];
        const Features& features = layer.features;
        const int64_t square = features.channels * features.channels;
        GramLayer one{};
        one.features = static_cast<const char*>(data[i].features) +
                       first * features.batch_stride * element_bytes(features.element);
        one.partial = reinterpret_cast<float*>(workspace + layer.partial_offset);
        one.gram_stride = data[i].gram_stride != 0 ? data[i].gram_stride : square;
        one.gram = data[i].gram + first * one.gram_stride;
        if (style) {
            one.target_stride = data[i].target_stride;
            one.target = data[i].target + first * one.target_stride;
            one.squares = reinterpret_cast<float*>(workspace + layer.squares_offset);
            one.weight = float(data[i].weight / double(square));
        }
        one.places = features.places;
        one.batch_stride = features.pictures == 1 ? 0 : features.batch_stride;
        one.channel_stride = features.channels == 1 ? 0 : features.channel_stride;
        one.place_stride = features.places == 1 ? 0 : features.place_stride;
        one.channels = int32_t(features.channels);
        one.slice = int32_t(layer.slice);
        one.tile = layer.variant.tile;
        one.tiles = int32_t(layer.tiles);
        one.splits = int32_t(layer.splits);
        one.groups = layer.groups();
        one.vectorised = is_vectorised(features) ? 1 : is_vectorised(features, 4) ? 2 : 0;
        one.scale = float(data[i].scale != 0 ? data[i].scale : 1.0 / double(features.places));
        filled.push_back(one);
    }
    return filled;
}

inline void GramPlan::add_chunk(std::vector<GramLayer> filled, int64_t count, float* loss,
                                std::vector<Launch>& launches) const {
    const auto launch = [&](const std::string& unit, const std::string& kernel, int64_t blocks, int32_t threads,
                            int64_t shared_bytes, const GramParameters& parameters, bool dependent = false) {
        launches.push_back({unit, kernel, {uint32_t(blocks), uint32_t(count), 1}, {uint32_t(threads), 1, 1},
                            uint32_t(shared_bytes), bytes_of(parameters), {}, dependent});
    };
    std::vector<bool> launched(layers.size(), false);
    for (size_t i = 0; i < layers.size(); ++i) {
        if (launched[i]) continue;
        const GramVariant& variant = layers[i].variant;
        if (layers[i].hopper.pieces > 0) {
            std::vector<Features> features;
            std::vector<Sm90Cut> cuts;
            std::vector<GramLayer> own;
            for (size_t j = i; j < layers.size(); ++j) {
                if (!(layers[j].variant == variant)) continue;
                launched[j] = true;
                features.push_back(layers[j].features);
                cuts.push_back(layers[j].hopper);
                own.push_back(filled[j]);
            }
            launches.push_back(detail::sm90_launch(features, cuts, own, count));
            continue;
        }
        GramParameters parameters{};
        parameters.loss = loss;
        int64_t blocks = 0, strips = 1;
        for (size_t j = i; j < layers.size(); ++j) {
            if (!(layers[j].variant == variant)) continue;
            launched[j] = true;
            GramLayer& one = parameters.layers[parameters.count++] = filled[j];
            one.first_block = int32_t(blocks);
            blocks += layers[j].blocks();
            strips = std::max(strips, std::min<int64_t>(layers[j].tiles, 2));
        }
        launch(variant.unit, variant.kernel, blocks, variant.threads, strips * variant.stage_bytes, parameters);
    }
    GramParameters parameters{};
    parameters.loss = loss;
    int64_t patches = 0;
    for (size_t i = 0; i < layers.size(); ++i) {
        GramLayer& one = parameters.layers[parameters.count++] = filled[i];
        one.first_patch = int32_t(patches);
        patches += layers[i].patches();
    }
    launch("gram", "gantk_gram_reduce", patches, kGramReduceThreads, 0, parameters, true);
    if (style) launch("gram", "gantk_gram_finish", 1, kGramReduceThreads, 0, parameters, true);
}

inline std::vector<Launch> GramPlan::launches(const std::vector<GramLayerData>& data, void* workspace,
                                              float* loss) const {
    if (data.size() != layers.size()) throw PlanError("each layer of a plan wants its data");
    std::vector<Launch> launches;
    for (int64_t first = 0; first < pictures; first += at_once) {
        add_chunk(filled(data, static_cast<char*>(workspace), first), std::min(at_once, pictures - first),
                  loss != nullptr ? loss + first : nullptr, launches);
    }
    return launches;
}

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// Chooses kernels and tiles for the gradient of Gram matrices and of the style loss. Host only.
// The twin of `toolkit/gantk/kernels/gram_gradient_plan.py`, where everything is explained; a test holds both equal.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include <gantk/kernels/gram_gradient_parameters.h>
#include <gantk/kernels/launch.hpp>

namespace gantk::kernels {

struct GradientLayerPlan {
    Features features, result;
    std::string unit, kernel;
    Element slope = Element::float32;
    int64_t tile = 0, places = 0, rows = 0, columns = 0, span = 1, shared_bytes = 0;
    bool resident = true;
    int64_t slopes_offset = 0, units_offset = 0;

    int64_t tops() const { return rows / tile; }
    int64_t tiles() const { return tops() * ((features.places + places - 1) / places); }
    int64_t blocks() const { return tops() * ((features.places + places * span - 1) / (places * span)); }
    int64_t strips() const { return rows / 8; }
};

// What the launches of a layer are given besides the plan; addresses are of the device.
struct GradientLayerData {
    const float* gradient = nullptr;  // dG or, for a style loss, the differences.
    const void* features = nullptr;
    void* result = nullptr;
    double scale = 0;  // 0 stands for 1 / K.
    // Between pictures, rows and columns of `gradient`; dense where `has_strides` is not set.
    bool has_strides = false;
    int64_t gradient_batch_stride = 0, gradient_row_stride = 0, gradient_column_stride = 0;
    double weight = 0;  // Of the layer, for a style loss.
};

// What turns differences of a style loss into the gradient of its Gram matrices.
struct GradientStyle {
    const float* upstream = nullptr;  // [N]
    int64_t upstream_stride = 1;
};

struct GramGradientPlan {
    std::vector<GradientLayerPlan> layers;
    int64_t pictures = 0, at_once = 0, workspace_bytes = 0;

    std::vector<Launch> launches(const std::vector<GradientLayerData>& data, void* workspace,
                                 const GradientStyle* style = nullptr) const;

private:
    std::vector<GramGradientLayer> filled(const std::vector<GradientLayerData>& data, char* workspace,
                                          const GradientStyle* style, int64_t first) const;
    void add_chunk(std::vector<GramGradientLayer> filled, int64_t count, std::vector<Launch>& launches) const;
};

namespace detail {

constexpr int64_t kGradientMostChannels = 65536, kGradientMostPictures = 65535;
constexpr int64_t kGradientMostBlocks = (int64_t{1} << 31) - 1, kGradientWorkspaceBytes = int64_t{1} << 27;
constexpr int64_t kGradientPlacesTile = 128, kGradientStepBytes = 128, kGradientMostSpan = 16;

inline int64_t whole(int64_t number, int64_t unit) { return (number + unit - 1) / unit * unit; }

inline const char* gradient_name(Element element) {
    return element == Element::float32 ? "f32" : element == Element::float16 ? "f16" : "bf16";
}

// Along which axis neighbours lie: 1 channels, 2 places, 0 neither.
inline int gradient_layout(const Features& features) {
    const bool nhwc = features.channel_stride == 1 || features.channels == 1;
    const bool nchw = features.place_stride == 1 || features.places == 1;
    if (nhwc && (features.channel_stride < features.place_stride || !nchw)) return 1;
    return nchw ? 2 : 0;
}

inline bool rows_are_aligned(const Features& features, int dense, int64_t size) {
    const auto even = [&](int64_t count, int64_t stride) {
        return count == 1 || stride * element_bytes(features.element) % size == 0;
    };
    const bool rows = dense == 1 ? even(features.places, features.place_stride)
                                 : even(features.channels, features.channel_stride);
    return features.alignment % size == 0 && even(features.pictures, features.batch_stride) && rows;
}

inline GradientLayerPlan gradient_kernel(const Features& features, const Features& result, const Device& device,
                                         Precision precision) {
    const int layout = gradient_layout(features);
    const int capability = device.major * 10 + device.minor, size = element_bytes(features.element);
    GradientLayerPlan plan;
    plan.features = features;
    plan.result = result;
    if (layout == 0 || capability < (features.element == Element::float16 ? 75 : 80)) {
        plan.unit = "gram_gradient";
        plan.kernel = std::string("gantk_gram_gradient_simt_") + gradient_name(features.element);
        plan.tile = plan.places = 64;
        plan.rows = plan.columns = whole(features.channels, 64);
        return plan;
    }
    const char* exactness = precision == Precision::exact ? "exact" : "tf32";
    plan.unit = size == 2 ? "gram_gradient_half" : "gram_gradient_single";
    plan.kernel = std::string("gantk_gram_gradient_") + (size == 4 ? exactness : gradient_name(features.element)) +
                  (layout == 1 ? "_nhwc" : "_nchw");
    plan.slope = features.element;
    plan.tile = features.channels <= 64 ? 64 : 128;
    plan.places = kGradientPlacesTile;
    plan.rows = whole(features.channels, plan.tile);
    plan.columns = whole(features.channels, kGradientStepBytes / size);
    return plan;
}

inline void share_memory(GradientLayerPlan& layer, int64_t span, const Device& device) {
    const int64_t stages = device.major >= 8 ? 3 : 2, slot = layer.tile * kGradientStepBytes;
    const int64_t steps = layer.columns * element_bytes(layer.slope) / kGradientStepBytes;
    const int64_t stage = kGradientPlacesTile * kGradientStepBytes;
    const int64_t passing = stages * (stage + slot), all = stages * stage + steps * slot;
    const int64_t half = (device.shared_bytes + 1024) / 2 - 1024;
    const int64_t room = std::min(passing, all) <= half ? half : device.shared_bytes;
    layer.span = span;
    layer.resident = steps <= stages || (span > 1 && all <= room);
    layer.shared_bytes = layer.resident ? all : passing;
}

inline std::vector<GradientLayerPlan> with_spans(std::vector<GradientLayerPlan> layers, const Device& device,
                                                 int64_t pictures) {
    int64_t tiles = 0;
    for (const GradientLayerPlan& layer : layers) tiles += layer.tiles();
    const int64_t most = tiles * pictures / (8 * int64_t{device.multiprocessors});
    const int64_t span = std::max<int64_t>(1, std::min(kGradientMostSpan, most));
    for (GradientLayerPlan& layer : layers) {
        if (layer.places == kGradientPlacesTile) share_memory(layer, span, device);
    }
    return layers;
}

inline int64_t place(std::vector<GradientLayerPlan>& layers, int64_t pictures) {
    int64_t end = 0, blocks = 0;
    for (GradientLayerPlan& layer : layers) {
        layer.slopes_offset = end;
        layer.units_offset = end + whole(pictures * layer.rows * layer.columns * element_bytes(layer.slope), 256);
        end = layer.units_offset + (layer.slope == Element::float16 ? whole(pictures * layer.rows * 4, 256) : 0);
        blocks += layer.blocks();
    }
    if (blocks > kGradientMostBlocks) throw PlanError("features want more blocks than a launch may have");
    return end;
}

inline void check(const std::vector<Features>& layers, const std::vector<Features>& results) {
    if (layers.empty() || layers.size() > kMaxGradientLayers || layers.size() != results.size()) {
        throw PlanError("there are " + std::to_string(layers.size()) + " layers and " + std::to_string(results.size()) +
                        " results; 1 to 8 go into one launch, and as many of each");
    }
    for (size_t i = 0; i < layers.size(); ++i) {
        const Features &layer = layers[i], &result = results[i];
        if (std::min({layer.pictures, layer.channels, layer.places}) < 1) throw PlanError("features without elements");
        if (layer.pictures != layers[0].pictures) throw PlanError("layers are of different numbers of pictures");
        if (layer.channels > kGradientMostChannels) {
            throw PlanError("features have " + std::to_string(layer.channels) + " channels; at most 65536 are allowed");
        }
        if (result.element != layer.element || result.pictures != layer.pictures ||
            result.channels != layer.channels || result.places != layer.places) {
            throw PlanError("a result has another type or shape than its features");
        }
    }
}

}  // namespace detail

// How the gradient of features lies by default: dense, channels last where they are.
inline Features dense_like(const Features& features) {
    const bool last = features.channel_stride < features.place_stride;
    Features dense = features;
    dense.batch_stride = features.channels * features.places;
    dense.channel_stride = last ? 1 : features.places;
    dense.place_stride = last ? features.channels : 1;
    dense.alignment = 16;
    return dense;
}

inline GramGradientPlan plan_gram_gradient(const std::vector<Features>& layers, const Device& device,
                                           Precision precision, const std::vector<Features>& results) {
    detail::check(layers, results);
    std::vector<GradientLayerPlan> kernels;
    for (size_t i = 0; i < layers.size(); ++i) {
        kernels.push_back(detail::gradient_kernel(layers[i], results[i], device, precision));
    }
    GramGradientPlan plan;
    plan.pictures = layers[0].pictures;
    plan.at_once = std::min(plan.pictures, detail::kGradientMostPictures);
    for (;;) {
        plan.layers = detail::with_spans(kernels, device, plan.at_once);
        plan.workspace_bytes = detail::place(plan.layers, plan.at_once);
        if (plan.workspace_bytes <= detail::kGradientWorkspaceBytes || plan.at_once == 1) return plan;
        const int64_t fitting = plan.at_once * detail::kGradientWorkspaceBytes / plan.workspace_bytes;
        plan.at_once = std::max<int64_t>(1, std::min(plan.at_once - 1, fitting));
    }
}

inline GramGradientPlan plan_gram_gradient(const std::vector<Features>& layers, const Device& device,
                                           Precision precision) {
    std::vector<Features> results;
    for (const Features& layer : layers) results.push_back(dense_like(layer));
    return plan_gram_gradient(layers, device, precision, results);
}

inline std::vector<GramGradientLayer> GramGradientPlan::filled(const std::vector<GradientLayerData>& data,
                                                               char* workspace, const GradientStyle* style,
                                                               int64_t first) const {
    std::vector<GramGradientLayer> filled;
    for (size_t i = 0; i < layers.size(); ++i) {
        const GradientLayerPlan& layer = layers[i];
        const Features &features = layer.features, &result = layer.result;
        const int64_t size = element_bytes(features.element), channels = features.channels;
        const bool units = layer.slope == Element::float16;
        const int dense = layer.kernel.compare(layer.kernel.size() - 4, 4, "nhwc") == 0 ? 1 : 2;
        GramGradientLayer one{};
        one.features = static_cast<const char*>(data[i].features) + first * features.batch_stride * size;
        one.result = static_cast<char*>(data[i].result) + first * result.batch_stride * size;
        one.gradient_batch_stride = data[i].has_strides ? data[i].gradient_batch_stride : channels * channels;
        one.gradient_row_stride = data[i].has_strides ? data[i].gradient_row_stride : channels;
        one.gradient_column_stride = data[i].has_strides ? data[i].gradient_column_stride : 1;
        one.gradient = data[i].gradient + first * one.gradient_batch_stride;
        double factor = data[i].scale != 0 ? data[i].scale : 1.0 / double(features.places);
        if (style != nullptr) {
            one.upstream = style->upstream + first * style->upstream_stride;
            one.upstream_stride = style->upstream_stride;
            factor *= 2.0 * data[i].weight / double(channels * channels);
        }
        one.factor = float(factor);
        one.slopes = workspace + layer.slopes_offset;
        one.units = units ? reinterpret_cast<float*>(workspace + layer.units_offset) : nullptr;
        one.places = features.places;
        one.batch_stride = features.batch_stride;
        one.channel_stride = features.channel_stride;
        one.place_stride = features.place_stride;
        one.result_batch_stride = result.batch_stride;
        one.result_channel_stride = result.channel_stride;
        one.result_place_stride = result.place_stride;
        one.channels = int32_t(channels);
        one.rows = int32_t(layer.rows);
        one.columns = int32_t(layer.columns);
        one.span = int32_t(layer.span);
        one.resident = layer.resident;
        one.load_bytes = int32_t(detail::rows_are_aligned(features, dense, 16)  ? 16
                                 : detail::rows_are_aligned(features, dense, 4) ? 4
                                                                                : size);
        one.vectorised = (dense == 1 ? result.channel_stride : result.place_stride) == 1 &&
                         detail::rows_are_aligned(result, dense, 4 * size);
        filled.push_back(one);
    }
    return filled;
}

inline void GramGradientPlan::add_chunk(std::vector<GramGradientLayer> filled, int64_t count,
                                        std::vector<Launch>& launches) const {
    const auto launch = [&](const std::string& unit, const std::string& kernel, int64_t blocks, int64_t shared_bytes,
                            const GramGradientParameters& parameters, bool dependent) {
        launches.push_back({unit, kernel, {uint32_t(blocks), uint32_t(count), 1}, {256, 1, 1}, uint32_t(shared_bytes),
                            bytes_of(parameters), {}, dependent});
    };
    std::vector<bool> launched(layers.size(), false);
    for (size_t i = 0; i < layers.size(); ++i) {
        if (launched[i]) continue;
        GramGradientParameters parameters{};
        int64_t strips = 0;
        for (size_t j = i; j < layers.size(); ++j) {
            if (layers[j].slope != layers[i].slope) continue;
            launched[j] = true;
            filled[j].first_strip = int32_t(strips);
            strips += layers[j].strips();
            parameters.layers[parameters.count++] = filled[j];
        }
        launch("gram_gradient", std::string("gantk_gram_slopes_") + detail::gradient_name(layers[i].slope), strips, 0,
               parameters, false);
    }
    std::fill(launched.begin(), launched.end(), false);
    for (size_t i = 0; i < layers.size(); ++i) {
        if (launched[i]) continue;
        GramGradientParameters parameters{};
        int64_t blocks = 0, shared_bytes = 0;
        for (size_t j = i; j < layers.size(); ++j) {
            if (layers[j].kernel != layers[i].kernel) continue;
            launched[j] = true;
            filled[j].first_block = int32_t(blocks);
            blocks += layers[j].blocks();
            shared_bytes = std::max(shared_bytes, layers[j].shared_bytes);
            parameters.layers[parameters.count++] = filled[j];
        }
        launch(layers[i].unit, layers[i].kernel, blocks, shared_bytes, parameters, true);
    }
}

inline std::vector<Launch> GramGradientPlan::launches(const std::vector<GradientLayerData>& data, void* workspace,
                                                      const GradientStyle* style) const {
    if (data.size() != layers.size()) throw PlanError("each layer of a plan wants its data");
    std::vector<Launch> launches;
    for (int64_t first = 0; first < pictures; first += at_once) {
        add_chunk(filled(data, static_cast<char*>(workspace), style, first), std::min(at_once, pictures - first),
                  launches);
    }
    return launches;
}

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// The partial kernels of the Gram matrix and what each is good for. Host only.
// The twin of `toolkit/gantk/kernels/gram_variants.py`, where the fields are explained.
#pragma once

#include <string>

#include <gantk/kernels/launch.hpp>

namespace gantk::kernels {

constexpr int32_t kGramStepBytes = 128;
constexpr int64_t kFewestExact = 64;

struct GramVariant {
    std::string unit, kernel;
    int32_t tile = 0, step = 0, threads = 0, stage_bytes = 0, resident = 0;
    int64_t place_ps = 0, lone_place_ps = 0;

    bool operator==(const GramVariant& other) const { return kernel == other.kernel; }
};

inline bool at_least(const Device& device, int major, int minor) {
    return device.major > major || (device.major == major && device.minor >= minor);
}

inline bool is_channels_last(const Features& features) { return features.channel_stride < features.place_stride; }

inline bool is_vectorised(const Features& features, int32_t size = 16) {
    const bool channels_last = is_channels_last(features);
    const int64_t dense = channels_last ? features.channel_stride : features.place_stride;
    const int64_t along = channels_last ? features.channels : features.places;
    const int64_t pitch = channels_last ? features.place_stride : features.channel_stride;
    const int64_t rows = channels_last ? features.places : features.channels;
    const auto even = [&](int64_t count, int64_t stride) {
        return count == 1 || stride * element_bytes(features.element) % size == 0;
    };
    return features.alignment >= size && (dense == 1 || along == 1) && even(features.pictures, features.batch_stride) &&
           even(rows, pitch);
}

inline bool has_tensor_cores(const Features& features, const Device& device, Precision precision) {
    if (features.element == Element::float16) return at_least(device, 7, 5);
    if (features.element == Element::float32 && precision == Precision::exact && features.places < kFewestExact) {
        return false;
    }
    return at_least(device, 8, 0);
}

inline GramVariant gram_variant(const Features& features, const Device& device, Precision precision, int32_t tile) {
    const bool single = features.element == Element::float32, exact = single && precision == Precision::exact;
    const std::string name = single ? "f32" : features.element == Element::float16 ? "f16" : "bf16";
    if (!has_tensor_cores(features, device, precision)) {
        return {"gram", "gantk_gram_simt_" + name, 64, 16, 128, 0, 3, 20000, 40000};
    }
    const std::string math = !single ? name : exact ? "exact" : "tf32";
    const bool large = tile == 128;
    GramVariant variant;
    variant.unit = single ? "gram_single" : "gram_half";
    variant.kernel = "gantk_gram_" + math + (is_channels_last(features) ? "_nhwc_" : "_nchw_") + std::to_string(tile);
    variant.tile = tile;
    variant.step = kGramStepBytes / element_bytes(features.element);
    variant.threads = 2 * tile;
    variant.stage_bytes = (at_least(device, 8, 0) ? 3 : 2) * tile * kGramStepBytes;
    variant.resident = (exact ? 128 : 256) / tile;
    variant.place_ps = exact ? (large ? 50000 : 13000) : (large ? 9000 : 5000) * (single ? 2 : 1);
    variant.lone_place_ps = exact ? (large ? 55000 : 25000) : (large ? 12000 : 10000) * (single ? 2 : 1);
    return variant;
}

}  // namespace gantk::kernels

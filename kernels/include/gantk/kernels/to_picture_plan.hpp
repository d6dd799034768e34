// SPDX-License-Identifier: Apache-2.0
// Cuts a generator's last layer into blocks. Host only.
//
// Memory is the bound: features are read once but for the borders of tiles, (18 / 16)^2 times, which the second-level
// cache has, and the picture is written. Tensor cores take 8 channels of the picture, of which most pictures have 3.
#pragma once

#include <array>
#include <limits>

#include <gantk/kernels/launch.hpp>
#include <gantk/kernels/to_picture_parameters.h>

namespace gantk::kernels {

struct ToPictureData {
    const void* features = nullptr;
    const float* before = nullptr;
    const void* weights = nullptr;
    const float* bias = nullptr;
    void* picture = nullptr;
};

struct ToPicturePlan {
    std::array<int64_t, 4> picture_shape{};
    ToPictureParameters parameters{};
    Extent grid;

    Launch launch(const ToPictureData& data) const {
        ToPictureParameters p = parameters;
        p.features = data.features;
        p.before = data.before;
        p.weights = data.weights;
        p.bias = data.bias;
        p.picture = data.picture;
        return {"to_picture", "gantk_to_picture_float16", grid, {kPictureThreads}, 0, bytes_of(p), {}};
    }
};

// For features [N, H, W, C] and weights [C, M, 4, 4] of float16, aligned as ToPictureParameters says where `alignment`,
// the largest power of two up to 16 that divides both addresses, is 16.
//
// Throws PlanError where they do not fit each other, with the reason.
inline ToPicturePlan plan_to_picture(const std::array<int64_t, 4>& features, const std::array<int64_t, 4>& weights,
                                     int32_t alignment) {
    const auto [pictures, height, width, channels] = features;
    const int64_t made = weights[1];
    for (const int64_t size : features)
        if (size < 1) throw PlanError("a size of the features is below 1");
    if (weights[0] != channels || weights[2] != 4 || weights[3] != 4)
        throw PlanError("weights of " + std::to_string(channels) + " x M x 4 x 4 are wanted");
    if (made < 1 || made > kPictureChannels)
        throw PlanError("a picture of " + std::to_string(made) + " channels is wanted; 1 to " +
                        std::to_string(kPictureChannels) + " are possible");
    if (channels % 8 != 0 || alignment < 16)
        throw PlanError("the features have " + std::to_string(channels) +
                        " channels; a multiple of 8 is wanted, features and weights from a multiple of 16 bytes");
    constexpr int64_t most_along = 65535;  // Of a grid, in y and z.
    const auto tiles = [](int64_t side) { return (side + kPictureTile - 1) / kPictureTile; };
    if (pictures > most_along || tiles(height) > most_along || width > std::numeric_limits<int32_t>::max() / 4 ||
        channels > std::numeric_limits<int32_t>::max() / 2)
        throw PlanError("the pictures want more blocks than a grid has");

    ToPicturePlan plan;
    plan.picture_shape = {pictures, made, 2 * height, 2 * width};
    plan.parameters.height = int32_t(height);
    plan.parameters.width = int32_t(width);
    plan.parameters.channels = int32_t(channels);
    plan.parameters.made = int32_t(made);
    plan.grid = {uint32_t(tiles(width)), uint32_t(tiles(height)), uint32_t(pictures)};
    return plan;
}

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// Cuts instance normalisation into launches. Host only.
//
// Memory is the bound: features are read twice, what is added once, and the result is written. Pictures up to some
// 20 MB are in the second-level cache of an H100 the second time. Chunks are as many as leave each multiprocessor two
// blocks, of at least 8 pixels a thread where there are so many: `finish`, which waits for all, has little to join.
#pragma once

#include <algorithm>
#include <array>
#include <limits>

#include <gantk/kernels/instance_norm_parameters.h>
#include <gantk/kernels/launch.hpp>

namespace gantk::kernels {

enum class Border : uint32_t { reflect = kBorderReflect, edge = kBorderEdge, constant = kBorderConstant };

// What is normalised: see InstanceNormParameters.
struct NormPictures {
    Element element = Element::float32;
    std::array<int64_t, 4> shape{};   // [N, rows, columns, from^2 * C], in blocks.
    int64_t from = 1;                 // Pixels of a block along a side: a power of two, as is `to`.
    int64_t to = 1;
    std::array<int64_t, 2> starts{};  // The picture's first row and column in the larger one, as ONNX's Slice has them.
    std::array<int64_t, 2> ends{std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::max()};
    Border border = Border::reflect;
    std::array<int64_t, 4> pads{};    // Above, left, below, right.
    std::array<int64_t, 4> others{};  // The shape of what is added, channels last; zeros where nothing is.
    std::array<int64_t, 2> others_starts{};
    bool scale_of_each = false;       // Whether each picture has its own scale and offset.
    bool normalizes = true;           // Or whether pixels are only moved, with an offset where one is given.
    bool rectifies = false;
    float epsilon = 1e-5f;
    int32_t alignment = 1;  // The largest power of two, up to 16, that divides the addresses of all three.
};

struct NormData {
    const void* features = nullptr;
    const void* others = nullptr;
    void* result = nullptr;
    const float* scale = nullptr;
    const float* offset = nullptr;
};

struct InstanceNormPlan {
    std::array<int64_t, 4> result_shape{};
    int64_t workspace_bytes = 0;
    InstanceNormParameters parameters{};
    std::string suffix;
    std::array<Extent, 3> grids{};
    bool normalizes = true;

    std::vector<Launch> launches(const NormData& data, void* workspace) const {
        InstanceNormParameters p = parameters;
        p.features = data.features;
        p.others = data.others;
        p.result = data.result;
        p.scale = data.scale;
        p.offset = data.offset;
        const std::string unit = "instance_norm", name = "gantk_instance_norm_";
        const Extent block{kNormThreads};
        if (!normalizes) return {{unit, name + "apply_" + suffix, grids[2], block, 0, bytes_of(p), {}, false}};
        const int64_t partials = int64_t(p.pictures) * p.chunks;
        p.means = static_cast<float*>(workspace);
        p.squares = p.means + partials * p.channels;
        p.factors = p.squares + partials * p.channels;
        p.counts = p.factors + int64_t(p.pictures) * 2 * p.channels;
        return {{unit, name + "moments_" + suffix, grids[0], block, 0, bytes_of(p), {}, false},
                {unit, name + "finish", grids[1], {kNormFinishChannels, kNormFinishRows}, 0, bytes_of(p), {}, true},
                {unit, name + "apply_" + suffix, grids[2], block, 0, bytes_of(p), {}, true}};
    }
};

namespace instance_norm_detail {

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostAlong = 65535;  // Of a grid, in y and z.
constexpr int64_t kBlocksOfMoments = 2;  // A multiprocessor.
constexpr int64_t kFewestPixels = 8;     // A thread of `moments`.

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline int32_t shift_of(int64_t block) {
    for (int32_t shift = 0; shift < 5; ++shift)
        if (block == int64_t(1) << shift) return shift;
    throw PlanError("a block is " + std::to_string(block) + " pixels wide; 1, 2, 4, 8 or 16 are wanted");
}

// A start or an end in a side of `size` pixels, counted from its last where it is negative.
inline int64_t in_side(int64_t at, int64_t size) {
    return std::clamp(at < 0 ? at + size : at, int64_t(0), size);
}

}  // namespace instance_norm_detail

// Throws PlanError where sizes do not fit each other, with the reason.
inline InstanceNormPlan plan_instance_norm(const NormPictures& what, const Device& device) {
    using namespace instance_norm_detail;
    const auto [batch, rows, columns, depth] = what.shape;
    if (*std::min_element(what.shape.begin(), what.shape.end()) < 1)
        throw PlanError("a size of the features is below 1");
    const int32_t from = shift_of(what.from), to = shift_of(what.to);
    const int64_t channels = depth / (what.from * what.from), height = rows * what.from, width = columns * what.from;
    if (channels * what.from * what.from != depth)
        throw PlanError(std::to_string(depth) + " channels are not those of blocks of " + std::to_string(what.from) +
                        " x " + std::to_string(what.from) + " pixels");
    const int64_t top = in_side(what.starts[0], height), left = in_side(what.starts[1], width);
    const int64_t high = in_side(what.ends[0], height) - top, wide = in_side(what.ends[1], width) - left;
    if (high < 1 || wide < 1) throw PlanError("nothing is left of the pictures between the starts and the ends");
    if (*std::min_element(what.pads.begin(), what.pads.end()) < 0) throw PlanError("a border is negative");
    const bool reflects = what.border == Border::reflect;
    if (reflects && (std::max(what.pads[0], what.pads[2]) >= high || std::max(what.pads[1], what.pads[3]) >= wide))
        throw PlanError("pictures of " + std::to_string(high) + " x " + std::to_string(wide) +
                        " pixels are too small for what is to be reflected");
    const int64_t framed_height = high + what.pads[0] + what.pads[2], framed_width = wide + what.pads[1] + what.pads[3];
    const int64_t result_rows = divided_up(framed_height, what.to), result_columns = divided_up(framed_width, what.to);
    const bool adds = what.others[0] > 0;
    if (adds && (what.others[0] != batch || what.others[3] != channels || what.others_starts[0] < 0 ||
                 what.others_starts[1] < 0 || what.others[1] < what.others_starts[0] + high ||
                 what.others[2] < what.others_starts[1] + wide))
        throw PlanError("what is added does not hold pictures of " + std::to_string(high) + " x " +
                        std::to_string(wide) + " pixels");
    const int64_t pixels = height * width, result_pixels = result_columns * what.to * what.to;
    if (std::max({pixels, result_rows * result_pixels * what.to, channels}) > kMost / 2 || batch > kMost)
        throw PlanError("the pictures have more than 2^30 pixels");

    const int64_t pack = 16 / element_bytes(what.element);
    const bool packed = what.alignment >= 16 && channels % pack == 0;
    const int64_t packs = channels / (packed ? pack : 1), channel_blocks = divided_up(packs, kNormThreads);
    const int64_t slots = kNormThreads / std::min<int64_t>(packs, kNormThreads);
    const int64_t most_chunks =
        std::max<int64_t>(1, kBlocksOfMoments * device.multiprocessors / (channel_blocks * batch));
    const int64_t chunks = std::clamp(divided_up(pixels, slots * kFewestPixels), int64_t(1), most_chunks);
    const int64_t chunk = divided_up(pixels, chunks);
    const int64_t runs = divided_up(result_pixels, slots * kNormPixelsAtOnce);
    if (batch * channel_blocks > kMostAlong || result_rows > kMostAlong)
        throw PlanError("the pictures want more blocks than a grid has");

    InstanceNormPlan plan;
    static const char* const types[] = {"float32", "float16", "bfloat16"};
    plan.suffix = std::string(types[int32_t(what.element)]) + (packed ? "_packed" : "");
    plan.result_shape = {batch, result_rows, result_columns, channels * what.to * what.to};
    InstanceNormParameters& p = plan.parameters;
    p.picture_pixels = pixels;
    p.others_stride = what.others[1] * what.others[2] * channels;
    p.result_stride = result_rows * result_pixels * channels;
    p.pictures = int32_t(batch);
    p.channels = int32_t(channels);
    p.columns = int32_t(columns);
    p.from_shift = from;
    p.to_shift = to;
    p.top = int32_t(top);
    p.left = int32_t(left);
    p.height = int32_t(high);
    p.width = int32_t(wide);
    p.is_cut = high != height || wide != width;
    p.border_top = int32_t(what.pads[0]);
    p.border_left = int32_t(what.pads[1]);
    p.framed_height = int32_t(framed_height);
    p.framed_width = int32_t(framed_width);
    p.border = uint32_t(what.border);
    p.result_columns = int32_t(result_columns);
    p.others_top = int32_t(what.others_starts[0]);
    p.others_left = int32_t(what.others_starts[1]);
    p.others_width = int32_t(what.others[2]);
    p.chunk = int32_t(chunk);
    p.chunks = int32_t(divided_up(pixels, chunk));
    p.channel_blocks = int32_t(channel_blocks);
    p.run = int32_t(divided_up(result_pixels, runs));
    p.scale_stride = what.scale_of_each ? int32_t(channels) : 0;
    p.rectifies = what.rectifies;
    p.epsilon = what.epsilon;
    const int64_t partials = batch * p.chunks;
    plan.normalizes = what.normalizes;
    if (what.normalizes)
        plan.workspace_bytes =
            int64_t(sizeof(float)) * (2 * partials * channels + 2 * batch * channels + partials);
    plan.grids[0] = {uint32_t(p.chunks), uint32_t(channel_blocks), uint32_t(batch)};
    plan.grids[1] = {uint32_t(divided_up(channels, kNormFinishChannels)), uint32_t(batch)};
    plan.grids[2] = {uint32_t(divided_up(result_pixels, p.run)), uint32_t(result_rows),
                     uint32_t(batch * channel_blocks)};
    return plan;
}

}  // namespace gantk::kernels

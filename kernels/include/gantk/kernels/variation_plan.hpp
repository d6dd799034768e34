// SPDX-License-Identifier: Apache-2.0
// Chooses kernel, bands and grid of the total variation. The twin of `toolkit/gantk/kernels/variation_plan.py`, where
// the reasons are; a test holds the plans of both equal. Host only.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include <gantk/kernels/launch.hpp>
#include <gantk/kernels/variation_parameters.h>

namespace gantk::kernels {

enum class VariationKind : uint32_t { l1 = kVariationL1, l2 = kVariationL2, isotropic = kVariationIsotropic };

// Pictures [N, C, H, W] and how they lie; strides are in elements.
struct Pictures {
    Element element = Element::float32;
    std::array<int64_t, 4> shape{};
    std::array<int64_t, 4> strides{};
    int32_t alignment = 1;  // The largest power of two, up to 16, that divides the first element's address.
};

struct VariationPlan {
    std::string kernel;
    Extent grid;
    int64_t workspace_bytes = 0;
    int64_t counters = 0;  // Zeros of 32 bits that a single launch wants; 0 where one launch is enough without.
    VariationParameters parameters{};

    std::vector<Launch> launches(uint64_t pictures, uint64_t value, uint64_t gradient, uint64_t workspace,
                                 uint64_t zeros) const {
        VariationParameters filled = parameters;
        filled.pictures = reinterpret_cast<const void*>(pictures);
        filled.gradient = reinterpret_cast<void*>(gradient);
        filled.value = reinterpret_cast<float*>(value);
        filled.partials = reinterpret_cast<float*>(workspace);
        filled.counters = counters > 0 ? reinterpret_cast<uint32_t*>(zeros) : nullptr;
        const Extent block{kVariationThreads};
        std::vector<Launch> found{{"variation", kernel, grid, block, 0, bytes_of(filled), {}, false}};
        if (counters > 0 && zeros == 0) {
            const Extent each{1, grid.y, grid.z};
            found.push_back({"variation", "gantk_variation_finish", each, block, 0, bytes_of(filled), {}, true});
        }
        return found;
    }
};

namespace variation_detail {

constexpr int64_t kMostPixels = int64_t(1) << 48;
constexpr int64_t kMostAlong = 65535;  // Of a grid, in y and z.
constexpr int64_t kFewestRows = 2;
constexpr int64_t kMostRows = 64;
constexpr int64_t kBlocksOfPacks = 8;  // A multiprocessor.
constexpr int64_t kBlocksOfPacksWithGradient = 5;
constexpr int64_t kBlocksOfPixels = 16;

inline int64_t divided_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

inline void check(const Pictures& pictures) {
    int64_t room = kMostPixels;
    for (int axis = 0; axis < 4; ++axis) {
        if (pictures.shape[axis] < 1) throw PlanError("a size of the pictures is below 1");
        if (pictures.shape[axis] > room) throw PlanError("the pictures have more than 2^48 elements");
        room /= pictures.shape[axis];
        if (pictures.strides[axis] < 0) throw PlanError("a stride of the pictures is negative");
        if (pictures.strides[axis] > kMostPixels / pictures.shape[axis])
            throw PlanError("the pictures span more than 2^48 elements");
    }
}

// Whether columns lie closer than what the kernels walk along as rows.
inline bool turned(const Pictures& pictures) {
    if (pictures.shape[3] == 1) return pictures.shape[2] > 1;
    return pictures.shape[2] > 1 && pictures.strides[2] < pictures.strides[3];
}

inline Pictures turn(Pictures pictures) {
    std::swap(pictures.shape[2], pictures.shape[3]);
    std::swap(pictures.strides[2], pictures.strides[3]);
    return pictures;
}

// Whether every row is a whole number of aligned packs.
inline bool packed(const Pictures& pictures) {
    const int64_t pack = 16 / element_bytes(pictures.element);
    bool whole = pictures.alignment >= 16 && pictures.strides[3] == 1 && pictures.shape[3] % pack == 0;
    for (int axis = 0; axis < 3; ++axis)
        whole = whole && (pictures.shape[axis] == 1 || pictures.strides[axis] % pack == 0);
    return whole;
}

inline int64_t rows_of_a_band(int64_t height, int64_t across, int64_t blocks) {
    const int64_t bands = std::max<int64_t>(1, blocks / across);
    const int64_t rows = std::clamp(divided_up(height, bands), kFewestRows, kMostRows);
    return divided_up(height, divided_up(height, rows));
}

inline std::string kernel_of(VariationKind kind, Element element, bool packs, bool gradient) {
    static const char* const kinds[] = {"l1", "l2", "isotropic"};
    static const char* const types[] = {"float32", "float16", "bfloat16"};
    std::string name = "gantk_variation_";
    if (packs) name += std::string(kinds[uint32_t(kind)]) + "_packed_";
    else name += "strided_";
    return name + types[int32_t(element)] + (gradient ? "_gradient" : "");
}

}  // namespace variation_detail

// `gradient` says how the gradient lies, of the shape and type of the pictures; null: the value alone.
inline VariationPlan plan_variation(Pictures pictures, VariationKind kind, double eps, const Device& device,
                                    const Pictures* gradient = nullptr) {
    using namespace variation_detail;
    Pictures into = gradient != nullptr ? *gradient : pictures;
    check(pictures);
    check(into);
    if (into.shape != pictures.shape || into.element != pictures.element)
        throw PlanError("the gradient has another shape or type than the pictures");
    if (kind == VariationKind::isotropic && !(eps > 0 && std::isfinite(eps)))
        throw PlanError("eps is not a number above 0");
    if (turned(pictures)) {
        pictures = turn(pictures);
        into = turn(into);
    }
    const bool packs = packed(pictures) && packed(into);
    const auto [batch, channels, height, width] = pictures.shape;
    const int64_t columns = channels * width / (packs ? 16 / element_bytes(pictures.element) : 1);
    const int64_t column_blocks = divided_up(columns, kVariationThreads);
    const int64_t each = !packs ? kBlocksOfPixels : gradient == nullptr ? kBlocksOfPacks : kBlocksOfPacksWithGradient;
    const int64_t rows = rows_of_a_band(height, column_blocks * batch, each * device.multiprocessors);
    const int64_t most = std::numeric_limits<int32_t>::max();
    const int64_t bands = divided_up(height, rows);
    if (column_blocks > most / bands || batch > kMostAlong * kMostAlong)
        throw PlanError("the pictures want more blocks than a grid has");
    const int64_t blocks = column_blocks * bands;

    VariationPlan plan;
    plan.kernel = kernel_of(kind, pictures.element, packs, gradient != nullptr);
    plan.grid = {uint32_t(blocks), uint32_t(std::min(batch, kMostAlong)), uint32_t(divided_up(batch, kMostAlong))};
    plan.workspace_bytes = blocks > 1 ? batch * blocks * int64_t(sizeof(float)) : 0;
    plan.counters = blocks > 1 ? batch : 0;
    VariationParameters& p = plan.parameters;
    p.batch = batch;
    p.channels = channels;
    p.height = height;
    p.width = width;
    std::copy(pictures.strides.begin(), pictures.strides.end(), p.picture_strides);
    std::copy(into.strides.begin(), into.strides.end(), p.gradient_strides);
    p.columns = columns;
    p.blocks = int32_t(blocks);
    p.column_blocks = int32_t(column_blocks);
    p.rows = int32_t(rows);
    p.channels_fastest = channels > 1 && width > 1 && pictures.strides[1] < pictures.strides[3];
    p.kind = uint32_t(kind);
    using Float = std::numeric_limits<float>;
    p.eps = kind == VariationKind::isotropic ? float(std::clamp(eps, double(Float::min()), double(Float::max()))) : 0.f;
    return plan;
}

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// How a thread reads and writes its columns of a picture, a row at a time; rows count from the first of its band.
#pragma once

#include <gantk/kernels/variation_parameters.h>

#include "elements.cuh"

namespace gantk::kernels {

constexpr int kLastLane = 31;

// A thread's pixels of one row, and the neighbour on either side.
template <int kPixels>
struct Window {
    float left;
    float pixel[kPixels];
    float right;
};

// Where a thread works. Threads without columns go along, since shuffles want whole warps, but touch no memory.
struct Column {
    bool active;
    bool has_left;
    bool has_right;
    int64_t picture;   // Offsets in elements of its first pixel in the first row of the band.
    int64_t gradient;

    GANTK_DEVICE Column(const VariationParameters& p, int64_t index, int64_t picture_index, int64_t row, int pixels) {
        active = index < p.columns;
        const int64_t across = p.width / pixels;
        const int64_t channel = p.channels_fastest ? index % p.channels : index / across;
        const int64_t x = (p.channels_fastest ? index / p.channels : index % across) * pixels;
        has_left = active && x > 0;
        has_right = active && x + pixels < p.width;
        picture = offset(p.picture_strides, picture_index, channel, row, x);
        gradient = offset(p.gradient_strides, picture_index, channel, row, x);
    }

private:
    static GANTK_DEVICE int64_t offset(const int64_t (&strides)[4], int64_t n, int64_t c, int64_t y, int64_t x) {
        return n * strides[0] + c * strides[1] + y * strides[2] + x * strides[3];
    }
};

// Rows of 16-byte packs: neighbours come from the lanes beside, and for the outer lanes from memory.
template <class Element>
class PackedRows {
public:
    static constexpr int kPixels = kPack<Element>;

    struct Raw {
        uint4 pack;
        Element edge;
    };

    GANTK_DEVICE PackedRows(const VariationParameters& p, const Column& column, bool wants_left)
        : pixels_(static_cast<const Element*>(p.pictures) + column.picture),
          gradient_(static_cast<Element*>(p.gradient) + column.gradient),
          stride_(p.picture_strides[2]),
          gradient_stride_(p.gradient_strides[2]),
          active_(column.active) {
        lane_ = threadIdx.x % 32;
        const bool left = wants_left && lane_ == 0 && column.has_left;
        edge_ = left ? -1 : kPixels;
        has_edge_ = left || (lane_ == kLastLane && column.has_right);
    }

    GANTK_DEVICE Raw load(int row) const {
        const Element* at = pixels_ + row * stride_;
        return {active_ ? __ldg(reinterpret_cast<const uint4*>(at)) : make_uint4(0, 0, 0, 0),
                has_edge_ ? read(at + edge_) : Element{}};
    }

    GANTK_DEVICE Window<kPixels> open(const Raw& raw) const {
        Window<kPixels> window;
        unpack<Element>(raw.pack, window.pixel);
        const float edge = to_float(raw.edge);
        const float left = __shfl_up_sync(~0u, window.pixel[kPixels - 1], 1);
        const float right = __shfl_down_sync(~0u, window.pixel[0], 1);
        window.left = lane_ == 0 ? edge : left;
        window.right = lane_ == kLastLane ? edge : right;
        return window;
    }

    GANTK_DEVICE void store(int row, const float (&values)[kPixels]) const {
        if (active_) store16(gradient_ + row * gradient_stride_, pack<Element>(values));
    }

private:
    const Element* pixels_;
    Element* gradient_;
    int64_t stride_;
    int64_t gradient_stride_;
    int lane_;
    int edge_;
    bool active_;
    bool has_edge_;
};

// Pixels of any strides, one a thread; neighbouring threads read them again, from the cache.
template <class Element>
class StridedRows {
public:
    static constexpr int kPixels = 1;

    struct Raw {
        Element left, pixel, right;
    };

    GANTK_DEVICE StridedRows(const VariationParameters& p, const Column& column, bool wants_left)
        : pixels_(static_cast<const Element*>(p.pictures) + column.picture),
          gradient_(static_cast<Element*>(p.gradient) + column.gradient),
          stride_(p.picture_strides[2]),
          gradient_stride_(p.gradient_strides[2]),
          step_(p.picture_strides[3]),
          active_(column.active),
          has_left_(wants_left && column.has_left),
          has_right_(column.has_right) {}

    GANTK_DEVICE Raw load(int row) const {
        const Element* at = pixels_ + row * stride_;
        return {has_left_ ? read(at - step_) : Element{}, active_ ? read(at) : Element{},
                has_right_ ? read(at + step_) : Element{}};
    }

    GANTK_DEVICE Window<1> open(const Raw& raw) const {
        return {to_float(raw.left), {to_float(raw.pixel)}, to_float(raw.right)};
    }

    GANTK_DEVICE void store(int row, const float (&values)[1]) const {
        if (active_) write(gradient_ + row * gradient_stride_, values[0]);
    }

private:
    const Element* pixels_;
    Element* gradient_;
    int64_t stride_;
    int64_t gradient_stride_;
    int64_t step_;
    bool active_;
    bool has_left_;
    bool has_right_;
};

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// What is computed value by value between convolutions with channels last, on a CPU, in one pass of memory.
#pragma once

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [count, pixels, channels], and how what they meet is shared.
struct Affine {
    Element element;
    std::int64_t count, pixels, channels;
    bool own_factors = false;  // Each picture has factors of its own.
    bool own_offsets = false;  // And offsets.
    bool own_others = false;   // Each picture has others of its own.
    bool pixelwise = false;    // Others are one number for each pixel.
    bool silu = false;         // Results y become y * sigmoid(y).
    bool clips = false;        // What is below `low` becomes that, then what is above `high` that. NaN stays NaN.
    float low = 0, high = 0;
};

// The result is features * factors + offsets + others, where negative multiplied with slopes; it may take the features'
// place; with `silu` there are no slopes, with `clips` there is nothing but features. Computed in float32, and rounded
// once.
struct AffineTensors {
    const void* features;
    void* result;
    const float* factors = nullptr;  // [count or 1, channels], or all 1.
    const float* offsets = nullptr;  // [count or 1, channels], or none.
    const void* others = nullptr;    // [count or 1, pixels, channels or 1], or none.
    const float* slopes = nullptr;   // [channels], or none. NaN stays NaN.
};

void affine(const Affine& shape, const AffineTensors& tensors, const Parallel& parallel);

}  // namespace gantk::cpu

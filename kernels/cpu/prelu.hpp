// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// What a pass of memory takes: [pixels, channels] values, and `slopes` of the channels.
struct Rectified {
    Element element;
    std::int64_t pixels, channels;
};

// Negative values are multiplied with the slope of their channel.
void prelu(const Rectified& shape, const void* values, const void* slopes, void* results, const Parallel& parallel);

}  // namespace gantk::cpu

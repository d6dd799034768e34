// SPDX-License-Identifier: Apache-2.0
// Gates of pictures with channels last, on a CPU.
#pragma once

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [pixels, 2 * channels] become [pixels, channels].
struct Gate {
    Element element;
    std::int64_t pixels, channels;
    bool sigmoid = false;  // The second half's sigmoid takes its place.
};

// The first half of each pixel's channels times the second, in float32 and rounded once.
void gate(const Gate& shape, const void* features, void* result, const Parallel& parallel);

}  // namespace gantk::cpu

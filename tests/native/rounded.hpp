// SPDX-License-Identifier: Apache-2.0
// Numbers as tensors with channels last hold them: float, or bfloat16, which float32 is rounded to.
#pragma once

#include <cstdint>
#include <vector>

#include "nhwc_loops.hpp"

namespace gantk::cpu {

template <typename T>
std::vector<T> rounded(const std::vector<float>& values) {
    std::vector<T> made(values.size());
    narrow(nhwc::kElement<T>, values.data(), static_cast<std::int64_t>(values.size()), made.data(), 0);
    return made;
}

template <typename T>
double value_of(T bits) {
    float value;
    widen(nhwc::kElement<T>, &bits, 0, 1, &value);
    return value;
}

}  // namespace gantk::cpu

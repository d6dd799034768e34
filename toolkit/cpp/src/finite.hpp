// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>

#include "gantk/tensor.hpp"

namespace gantk {

// How many values of an array in main memory are NaN or infinite; 0 for integers.
std::size_t count_not_finite(const TensorView& view);

// How many values of an array of signed integers in main memory are below or above a range; 0 for other types.
std::size_t count_outside(const TensorView& view, double low, double high);

}  // namespace gantk

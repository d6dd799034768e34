// SPDX-License-Identifier: Apache-2.0
// The total variation of pictures (Mahendran and Vedaldi, arXiv 1412.0035, section 3.2) with its gradient, on
// a CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include <gantk/kernels/variation_plan.hpp>

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Of the differences dx and dy with the next pixel to the right and below, 0 where there is none, the sum of
// |dx| + |dy|, of dx^2 + dy^2, or of sqrt(dx^2 + dy^2 + epsilon).
using kernels::VariationKind;

// Pictures [count, channels, height, width], contiguous; all sizes are at least 1.
struct Pictures {
    Element element;
    std::int64_t count, channels, height, width;
};

// The variation of each picture, float32 [count], and its derivative by each pixel, of their element type.
// Differences are float32; their terms are summed in float32 down 64 rows of a column, and these sums in
// float64.
//
// `workspace` has variation_workspace_bytes, aligned to 64.
std::size_t variation_workspace_bytes(const Pictures& shape);
void total_variation(const Pictures& shape, const void* pictures, VariationKind kind, float epsilon,
                     float* value, void* gradient, void* workspace, const Parallel& parallel);

}  // namespace gantk::cpu

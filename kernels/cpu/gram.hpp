// SPDX-License-Identifier: Apache-2.0
// The Gram matrix of Gatys, Ecker and Bethge (arXiv 1508.06576) and its gradient, on a CPU.
#pragma once

#include <cstddef>
#include <cstdint>

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [count, channels, places], contiguous; all sizes are at least 1.
struct Features {
    Element element;
    std::int64_t count, channels, places;
};

// G = scale * F F^T, float32 [count, channels, channels]. Products are summed in float32, 512 at a time, and
// those sums in float64, so that the error does not grow with the number of places.
//
// `workspace` has gram_workspace_bytes, aligned to 64.
std::size_t gram_workspace_bytes(const Features& shape);
void gram_matrix(const Features& shape, const void* features, double scale, float* gram, void* workspace,
                 const Parallel& parallel);

// dF = scale * (D + D^T) F, of the element type of the features, for D float32 [count, channels, channels].
// Sums over channels are in float32.
std::size_t gram_gradient_workspace_bytes(const Features& shape);
void gram_gradient(const Features& shape, const float* gram_gradient, const void* features, double scale,
                   void* features_gradient, void* workspace, const Parallel& parallel);

}  // namespace gantk::cpu

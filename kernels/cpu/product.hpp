// SPDX-License-Identifier: Apache-2.0
// The inner loop of products of matrices: 6 rows of 16 sums.
#pragma once

#include <cstdint>

#include "clones.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

constexpr std::int64_t kRows = 6, kPanel = 16;  // 12 sums, 2 vectors, a factor are AVX2's registers.
constexpr int kVectors = 2;
static_assert(kVectors * kLanes == kPanel);

constexpr std::int64_t rows_of(std::int64_t outputs) { return divide_up(outputs, kRows); }

using Sums = Lanes[kRows][kVectors];

GANTK_INLINE void clear(Sums& sums) {
    for (auto& row : sums)
        for (Lanes& one : row) one = Lanes{};  // An initialiser becomes a slow `rep stos`.
}

// Adds the products of kRows weights, `apart` floats apart, and kPanel values. One vector of weights is in use at a time,
// lest sums go to memory.
GANTK_INLINE void add_products(const float* weights, std::int64_t apart, const float* values, Sums& sums) {
    Lanes given[kVectors];
    for (int v = 0; v < kVectors; ++v) given[v] = *reinterpret_cast<const Lanes*>(values + v * kLanes);
    for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kVectors; ++v) sums[r][v] += weights[r * apart] * given[v];
}

// Adds the products of weights [terms][kRows] and of values [terms][kPanel].
GANTK_INLINE void accumulate(const float* weights, const float* values, std::int64_t terms, Sums& sums) {
    for (std::int64_t term = 0; term < terms; ++term)
        add_products(weights + term * kRows, 1, values + term * kPanel, sums);
}

}  // namespace gantk::cpu

// SPDX-License-Identifier: Apache-2.0
// The three parts of Winograd's convolution: features become 36 frequencies, each frequency is a product of
// matrices, and sums become results.
//
// A *tile* is 4 x 4 results, made from 6 x 6 features. A *strip* is four tiles side by side, a *panel* four
// strips: one row of the matrix of a frequency has a panel's 16 tiles next to each other.
#pragma once

#include <cstdint>

#include "winograd.hpp"

namespace gantk::cpu::winograd {

constexpr std::int64_t kSide = 4, kFrequencies = 36;
constexpr std::int64_t kStripTiles = 4, kStripWidth = kSide * kStripTiles, kStrips = 4;
constexpr std::int64_t kPanel = kStrips * kStripTiles;
constexpr std::int64_t kRows =
    6;  // Output channels of a product: 12 sums, 2 vectors, a factor are AVX2's registers.

constexpr std::int64_t divide_up(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
constexpr std::int64_t rows_of(std::int64_t outputs) { return divide_up(outputs, kRows); }

// Its first result.
struct Strip {
    std::int64_t picture, y, x;
};

// B^T d B for one channel of a panel's features: 36 rows of 16, `stride` floats apart.
void transform_features(const Convolution& shape, const float* features, std::int64_t channel,
                        const Strip (&strips)[kStrips], float* frequencies, std::int64_t stride);

// The sums of one frequency over all channels. `weights` are [rows_of(outputs)][inputs][kRows], `tiles`
// [panels][inputs][kPanel], `sums` [panels][rows_of(outputs) * kRows] rows of kPanel, one in kFrequencies.
void multiply(const Convolution& shape, const float* weights, const float* tiles, std::int64_t panels,
              float* sums);

// A^T m A + bias for one channel of a panel's results, at least `floor`; `sums` are 36 rows of 16. Only the
// first `strips_left` strips are results.
void transform_sums(const Convolution& shape, const float* sums, std::int64_t channel,
                    const Strip (&strips)[kStrips], std::int64_t strips_left, float bias, float floor,
                    float* result);

}  // namespace gantk::cpu::winograd

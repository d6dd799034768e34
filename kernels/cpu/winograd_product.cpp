// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "clones.hpp"
#include "product.hpp"
#include "winograd_parts.hpp"

namespace gantk::cpu::winograd {
namespace {

using std::int64_t;

constexpr int64_t kTerms = 516;    // Channels summed at a time: a panel of them is 33 KB, about the first cache.
constexpr int64_t kTogether = 22;  // Times kRows channels of weights, 270 KB, which stay in the second cache.
constexpr int64_t kAhead = 4;      // Groups of turned weights between those in use and those that are fetched.
static_assert(kTerms % kRows == 0);

// As `accumulate`, with turned weights: groups of kRows terms, `stride` floats apart, [kRows outputs][kRows terms].
GANTK_INLINE void accumulate_turned(const float* weights, int64_t stride, const float* values, int64_t terms,
                                    Sums& sums) {
    for (; terms > 0; terms -= kRows, weights += stride, values += kRows * kPanel) {
        for (int64_t line = 0; line < kRows * kRows; line += kPanel)
            __builtin_prefetch(weights + kAhead * stride + line);
        for (int64_t term = 0; term < std::min(kRows, terms); ++term)
            add_products(weights + term, kRows, values + term * kPanel, sums);
    }
}

// kRows rows of sums, `kFrequencies * kPanel` floats apart, over `terms` channels from `first` on.
GANTK_INLINE void multiply_panel(const Convolution& shape, const float* weights, int64_t row, int64_t first,
                                 int64_t terms, const float* tiles, float* sums) {
    for (int r = 0; r < kRows; ++r) __builtin_prefetch(sums + r * kFrequencies * kPanel, 1);
    Sums sum;
    clear(sum);
    if (shape.turned)
        accumulate_turned(weights + first / kRows * row_size(shape.outputs) + row * kRows * kRows,
                          row_size(shape.outputs), tiles, terms, sum);
    else
        accumulate(weights + row * row_size(shape.inputs) + first * kRows, tiles, terms, sum);
    for (int r = 0; r < kRows; ++r, sums += kFrequencies * kPanel)
        for (int v = 0; v < kVectors; ++v) {
            Lanes& kept = *reinterpret_cast<Lanes*>(sums + v * kLanes);
            kept = first > 0 ? kept + sum[r][v] : sum[r][v];
        }
}

GANTK_CLONES void multiply_panels(const Convolution& shape, const float* weights, const float* tiles,
                                  int64_t panels, float* sums) {
    const int64_t inputs = shape.inputs, rows = rows_of(shape.outputs);
    const int64_t all = phases_of(shape) * rows;
    for (int64_t first = 0; first < inputs; first += kTerms) {
        const int64_t terms = std::min(kTerms, inputs - first);
        for (int64_t top = 0; top < rows; top += kTogether)
            for (int64_t panel = 0; panel < panels; ++panel)
                for (int64_t row = top; row < std::min(top + kTogether, rows); ++row)
                    multiply_panel(shape, weights, row, first, terms, tiles + (panel * inputs + first) * kPanel,
                                   sums + (panel * all + row) * kRows * kFrequencies * kPanel);
    }
}

}  // namespace

void multiply(const Convolution& shape, const float* weights, const float* tiles, int64_t panels,
              float* sums) {
    multiply_panels(shape, weights, tiles, panels, sums);
}

}  // namespace gantk::cpu::winograd

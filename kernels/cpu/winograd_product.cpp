// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "clones.hpp"
#include "product.hpp"
#include "winograd_parts.hpp"

namespace gantk::cpu::winograd {
namespace {

using std::int64_t;

constexpr int64_t kTerms = 512;    // Channels summed at a time: a panel of them is 32 KB, the first cache.
constexpr int64_t kTogether = 22;  // Times kRows channels of weights, 270 KB, which stay in the second cache.

// kRows rows of sums, `kFrequencies * kPanel` floats apart, over `terms` channels.
GANTK_INLINE void multiply_panel(const float* weights, const float* tiles,
                                                          int64_t terms, bool add, float* sums) {
    Sums sum;
    clear(sum);
    accumulate(weights, tiles, terms, sum);
    for (int r = 0; r < kRows; ++r, sums += kFrequencies * kPanel)
        for (int v = 0; v < kVectors; ++v) {
            Lanes& kept = *reinterpret_cast<Lanes*>(sums + v * kLanes);
            kept = add ? kept + sum[r][v] : sum[r][v];
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
                    multiply_panel(weights + (row * inputs + first) * kRows,
                                   tiles + (panel * inputs + first) * kPanel, terms, first > 0,
                                   sums + (panel * all + row) * kRows * kFrequencies * kPanel);
    }
}

}  // namespace

void multiply(const Convolution& shape, const float* weights, const float* tiles, int64_t panels,
              float* sums) {
    multiply_panels(shape, weights, tiles, panels, sums);
}

}  // namespace gantk::cpu::winograd

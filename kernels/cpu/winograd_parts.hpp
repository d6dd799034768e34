// SPDX-License-Identifier: Apache-2.0
// The three parts of Winograd's convolution: features become 36 frequencies, each frequency is a product of
// matrices, and sums become results.
//
// A *tile* is 4 x 4 results, made from 6 x 6 features. A *panel* is 16 tiles: one row of the matrix of a frequency
// has them next to each other. Where pictures are wide enough it is four *strips* of four tiles side by side.
//
// A frequency is the value of a polynomial, whose coefficients are features or weights, at a point. With the points 0,
// sqrt(2), -sqrt(2), 1 / sqrt(2), -1 / sqrt(2) and infinity sums lose less than with 0, 1, -1, 2, -2 and infinity
// (Alam, Anderson, Barabasz and Gregg, arXiv 2201.10369, recommend points of this form), and the inverse of a point is
// one again: turned weights have the same frequencies, in another order.
//
// A transposed convolution is four of 3 x 3 that share their features: results of even and of odd rows and columns
// are its *phases*, and two of a kernel's four rows, and of its columns, belong to each. The third of a phase's own
// is zero, and so is one of six frequencies each way, for which there is no product.
#pragma once

#include <cstdint>

#include "product.hpp"
#include "winograd.hpp"

namespace gantk::cpu::winograd {

constexpr std::int64_t kSide = 4, kReach = 6, kFrequencies = kReach * kReach;
constexpr std::int64_t kStripTiles = 4, kStripWidth = kSide * kStripTiles, kStrips = 4;
static_assert(kStrips * kStripTiles == kPanel);

// Transformed weights of kRows outputs, and zeros: turned ones are read six by six, past the last one too, and rows a
// power of two apart would share the cache's sets.
constexpr std::int64_t kBeyond = 32;
static_assert(kBeyond >= (kRows - 1) * kRows);
constexpr std::int64_t row_size(std::int64_t inputs) { return inputs * kRows + kBeyond; }

// The frequency that one of turned weights is.
constexpr std::int64_t turned(std::int64_t frequency) {
    constexpr std::int64_t kInverses[kReach] = {5, 3, 4, 1, 2, 0};
    return kInverses[frequency / kReach] * kReach + kInverses[frequency % kReach];
}

constexpr std::int64_t phases_of(const Convolution& shape) { return shape.transposed ? 4 : 1; }

// The frequency, of six, that kernels of even or of odd results lack.
constexpr std::int64_t lacking(std::int64_t odd) { return odd == 0 ? kReach - 1 : 0; }

constexpr bool has_product(const Convolution& shape, std::int64_t frequency, std::int64_t phase) {
    return !shape.transposed ||
           (frequency / kReach != lacking(phase / 2) && frequency % kReach != lacking(phase % 2));
}

// The kernel of 3 x 3 of one phase.
void read_kernel(const Convolution& shape, const float* weights, std::int64_t output, std::int64_t input,
                 std::int64_t phase, double (&kernel)[3][3]);

// G g G^T.
void transform_kernel(const double (&kernel)[3][3], double (&made)[kFrequencies]);

// The place of its first result; of a transposed convolution, half of it.
struct Tile {
    std::int64_t picture, y, x;
};

// Tiles past `count` are among the last again, and never written; those right of a picture have no results.
struct Panel {
    Tile tiles[kPanel];
    std::int64_t count;
    bool strips;
};

// B^T d B for one channel of a panel's features: 36 rows of 16, `stride` floats apart.
void transform_features(const Convolution& shape, const Tensors& tensors, std::int64_t channel,
                        const Panel& panel, float* frequencies, std::int64_t stride);

// The sums of one frequency of one phase over all channels. `weights` are [rows_of(outputs)] rows of [inputs][kRows],
// turned [rows_of(inputs)] rows of [outputs][kRows], row_size apart, `tiles` [panels][inputs][kPanel], `sums`
// [panels][phases][rows_of(outputs) * kRows] rows of kPanel, one in kFrequencies, from the phase's own on.
void multiply(const Convolution& shape, const float* weights, const float* tiles, std::int64_t panels,
              float* sums);

// A^T m A + bias, or 0, for one channel of a panel's results; `sums` are 36 rows of 16, and those of the next
// phase `stride` floats behind them.
void transform_sums(const Convolution& shape, const Tensors& tensors, const float* sums, std::int64_t stride,
                    std::int64_t channel, const Panel& panel);

}  // namespace gantk::cpu::winograd

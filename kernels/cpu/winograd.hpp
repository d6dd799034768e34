// SPDX-License-Identifier: Apache-2.0
// Convolutions by Winograd's minimal filters F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308), on a CPU: that with
// kernels of 3 x 3, stride 1 and a border of one, by a quarter of the multiplications; and the transposed one with
// kernels of 4 x 4, stride 2 and padding 1, by 25 in place of 64.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [count, inputs, height, width] become [count, outputs, height, width] or, where the convolution is
// transposed, [count, outputs, 2 height, 2 width]; float32, contiguous; all sizes are at least 1. The border is of
// zeros or, where it is reflected, of the second row and column and the last but one, which then exist; not
// transposed. A *turned* one is the gradient of a convolution by its features: its weights are those of the other, from
// outputs to inputs, turned by half a circle; neither transposed nor reflected.
struct Convolution {
    std::int64_t count, inputs, outputs, height, width;
    bool transposed = false, reflected = false, turned = false;

    std::int64_t scale() const { return transposed ? 2 : 1; }
};

// Weights [outputs, inputs, 3, 3], transposed [inputs, outputs, 4, 4], as the convolution wants them: 4 or 6.25
// times as large, transformed in float64 and rounded once. Of the shape only inputs, outputs and the kind matter; it
// is not turned, for a turned convolution takes what was made for the other.
std::size_t winograd_weights_bytes(const Convolution& shape);
void winograd_weights(const Convolution& shape, const float* weights, float* transformed,
                      const Parallel& parallel);

// What a convolution reads and makes.
struct Tensors {
    const float *features, *packed;  // Weights in the order that the function wants.
    float* result;
    const float* bias = nullptr;  // [outputs].
    bool relu = false;            // Negative results become 0.
    const float* mask = nullptr;  // As features, which count where it is above 0, and are 0 elsewhere.
};

// result = features * weights + bias.
//
// Sums are float32, 516 channels at a time. A value that is not finite spoils the tiles of 4 x 4 results, 8 x 8
// transposed, whose 6 x 6 features it is among, not only the results that it belongs to.
//
// Throws std::bad_alloc where there is no memory; `result` is then left half written.
void winograd_convolution(const Convolution& shape, const Tensors& tensors, const Memory& memory,
                          const Parallel& parallel);

}  // namespace gantk::cpu

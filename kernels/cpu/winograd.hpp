// SPDX-License-Identifier: Apache-2.0
// The convolution with kernels of 3 x 3, of stride 1 and with a border of one zero, by Winograd's minimal
// filters F(4x4, 3x3) (Lavin and Gray, arXiv 1509.09308), on a CPU: a quarter of the multiplications.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [count, inputs, height, width] become [count, outputs, height, width], float32, contiguous; all
// sizes are at least 1.
struct Convolution {
    std::int64_t count, inputs, outputs, height, width;
};

// Weights [outputs, inputs, 3, 3] as the convolution wants them: four times as large, transformed in float64
// and rounded once.
std::size_t winograd_weights_bytes(std::int64_t inputs, std::int64_t outputs);
void winograd_weights(std::int64_t inputs, std::int64_t outputs, const float* weights, float* transformed,
                      const Parallel& parallel);

// result = features * weights + bias, negative values replaced by 0 where `relu` is set. `bias` [outputs] may
// be null.
//
// Sums are float32, 512 channels at a time. A value that is not finite spoils the tiles of 4 x 4 results
// whose 6 x 6 features it is among, not only the 3 x 3 results that it belongs to.
//
// Throws std::bad_alloc where there is no memory; `result` is then left half written.
void winograd_convolution(const Convolution& shape, const float* features, const float* transformed,
                          const float* bias, bool relu, float* result, const Memory& memory,
                          const Parallel& parallel);

}  // namespace gantk::cpu

// SPDX-License-Identifier: Apache-2.0
// The transposed convolution with kernels of 4 x 4, stride 2 and padding 1 by sums of products, on a CPU: for few
// features, where time goes into reading weights, of which Winograd's filters have 6.25 times as many.
#pragma once

#include <cstddef>

#include "winograd.hpp"

namespace gantk::cpu {

// Weights [inputs, outputs, 4, 4] in another order, padded to a multiple of 6 outputs.
std::size_t transposed_weights_bytes(const Convolution& shape);
void transposed_weights(const Convolution& shape, const float* weights, float* packed, const Parallel& parallel);

// As `winograd_convolution` of a transposed shape, and without a mask; sums are float32, of 4 products a channel.
void transposed_convolution(const Convolution& shape, const Tensors& tensors, const Memory& memory,
                            const Parallel& parallel);

}  // namespace gantk::cpu

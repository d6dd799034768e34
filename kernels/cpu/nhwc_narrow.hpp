// SPDX-License-Identifier: Apache-2.0
// Convolutions of few outputs, which would leave lanes of a vector idle: lanes are pixels instead. Features are copied
// into *planes* for it, in which the same word of neighbouring pixels lie next to each other.
#pragma once

#include "nhwc_loops.hpp"

namespace gantk::cpu::nhwc {

// The weight of an output that meets a row and a column of features of a part: of four of a transposed convolution,
// whose kernels are 2 x 2, or of the only one.
template <typename Element>
Element weight_of(const Convolution& shape, const Element* weights, std::int64_t part, std::int64_t output,
                  std::int64_t row, std::int64_t column, std::int64_t input) {
    if (!shape.transposed) {
        const std::int64_t kernel = (output * shape.inputs + input) * shape.kernel_height + row;
        return weights[kernel * shape.kernel_width + column];
    }
    // Even results meet the last and the second of four rows and columns, odd ones the third and the first.
    const std::int64_t kernel = (input * shape.outputs + output) * 4 + 3 - part / 2 - 2 * row;
    return weights[kernel * 4 + 3 - part % 2 - 2 * column];
}

inline bool is_narrow(const Convolution& shape) {
    return shape.outputs <= kMostNarrow && (shape.transposed || (shape.stride == 1 && shape.dilation == 1));
}

template <typename Element>
std::size_t narrow_weights_bytes(const Convolution& shape);
template <typename Element>
void narrow_weights(const Convolution& shape, const Element* weights, Element* packed);
template <typename Element>
void narrow_convolution(const Convolution& shape, const Tensors<Element>& tensors, const Memory& memory,
                        const Parallel& parallel);

}  // namespace gantk::cpu::nhwc

// SPDX-License-Identifier: Apache-2.0
// Convolutions with channels last, [N, H, W, C], on a CPU, of float32 or of bfloat16, whose products are summed in
// float32 in pairs of channels, by AVX512-BF16 where the processor has it.
#pragma once

#include <cstddef>
#include <cstdint>

#include "memory.hpp"
#include "parallel.hpp"

namespace gantk::cpu::nhwc {

using Bfloat = std::uint16_t;  // The upper half of a float's bits. An Element below is this or float.

// Features [count, height, width, inputs] become [count, result_height(), result_width(), outputs]. All sizes are at
// least 1, and the kernel lies within the features and the zeros around them: `before` rows above them and columns to
// the left, and `after` rows and columns on the other sides. Its rows and columns lie `dilation` pixels apart.
//
// A transposed one has kernels of 4 x 4 and stride 2, and so many rows and columns are cut from what these make: 1 and
// 1, which leaves twice the height and width, 1 and 0, which leaves one row and column more, or 3 and 3, so that no
// result misses a feature, and there are at least 3 rows and columns of these.
struct Convolution {
    std::int64_t count, height, width, inputs, outputs;
    std::int64_t kernel_height = 3, kernel_width = 3, stride = 1;
    bool transposed = false;
    std::int64_t before = 0, after = 0;
    std::int64_t dilation = 1;  // Of one that is not transposed.

    // Rows and columns of zeros that are read around the features.
    std::int64_t border_before() const { return border(before); }
    std::int64_t border_after() const { return border(after); }
    // Results of a transposed one are summed apart for even and for odd rows and columns, which lie so far apart.
    std::int64_t scale() const { return transposed ? 2 : 1; }
    // From the first pixel that a kernel of this height or width meets to the last.
    std::int64_t reach_of(std::int64_t kernel) const { return (kernel - 1) * dilation + 1; }
    std::int64_t result_height() const { return result_of(height, kernel_height); }
    std::int64_t result_width() const { return result_of(width, kernel_width); }

  private:
    std::int64_t border(std::int64_t padding) const { return transposed ? (3 - padding) / 2 : padding; }
    std::int64_t result_of(std::int64_t size, std::int64_t kernel) const {
        if (transposed) return 2 * (size - 1) + kernel - before - after;
        return (size + before + after - reach_of(kernel)) / stride + 1;
    }
};

// What a convolution reads and makes.
template <typename Element>
struct Tensors {
    const Element *features, *packed;  // Weights in the order that the function wants.
    Element* result;
    const Element* bias = nullptr;    // [outputs].
    bool relu = false;                // Negative results become 0.
    const Element* slopes = nullptr;  // [outputs]: negative results are multiplied with these; not with `relu`.
    const Element* others = nullptr;  // As many as results, and added to them after that.
};

// Sums of products, whatever the kernel. Weights are [outputs, inputs, kernel_height, kernel_width], transposed
// [inputs, outputs, 4, 4]; of the shape only outputs, inputs, kernel, dilation and kind matter to what is packed.
//
// A value that is not finite spoils the results that it belongs to and, of bfloat16 with an odd number of inputs,
// those of the column before.
//
// Throws std::bad_alloc where there is no memory.
template <typename Element>
std::size_t direct_weights_bytes(const Convolution& shape);
template <typename Element>
void direct_weights(const Convolution& shape, const Element* weights, Element* packed, const Parallel& parallel);
template <typename Element>
void direct_convolution(const Convolution& shape, const Tensors<Element>& tensors, const Memory& memory,
                        const Parallel& parallel);

// By Winograd's minimal filters, see winograd.hpp: of kernels of 3 x 3 and stride 1, and of transposed ones, whose
// inputs and outputs are multiples of 16. Of bfloat16 frequencies of features and of weights are rounded too, which
// costs some 10 dB against sums of products.
//
// A value that is not finite spoils the tile of 4 x 4 results, 8 x 8 transposed, that it is read for. Results of a
// tile lie `dilation` apart.
bool has_winograd(const Convolution& shape);
std::int64_t winograd_tiles(const Convolution& shape);
template <typename Element>
std::size_t winograd_weights_bytes(const Convolution& shape);
template <typename Element>
void winograd_weights(const Convolution& shape, const Element* weights, Element* packed, const Parallel& parallel);
template <typename Element>
void winograd_convolution(const Convolution& shape, const Tensors<Element>& tensors, const Memory& memory,
                          const Parallel& parallel);

}  // namespace gantk::cpu::nhwc

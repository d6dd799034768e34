// SPDX-License-Identifier: Apache-2.0
// Convolutions of each channel by itself, with channels last, on a CPU, of float32 or of bfloat16.
#pragma once

#include <cstdint>
#include <vector>

#include "nhwc.hpp"
#include "parallel.hpp"

namespace gantk::cpu::nhwc {

// Where results lie in pictures of so many rows and columns: so many apart, from these on.
struct DepthwisePlaces {
    std::int64_t height, width, down = 1, across = 1, top = 0, left = 0;
};

// Features [count, height, width, channels] become [count, result_height(), result_width(), channels]. All sizes are at
// least 1, and the kernel lies within the features and the zeros around them.
struct Depthwise {
    std::int64_t count, height, width, channels;
    std::int64_t kernel_height = 3, kernel_width = 3, down = 1, across = 1;  // The last two are strides.
    std::int64_t top = 0, left = 0, bottom = 0, right = 0;  // Rows and columns of zeros.

    std::int64_t result_height() const { return (top + height + bottom - kernel_height) / down + 1; }
    std::int64_t result_width() const { return (left + width + right - kernel_width) / across + 1; }
};

// Lanes that are read at a time: no vector of them lies across two lines of the cache.
struct alignas(64) DepthwiseLanes {
    float values[16];
};

// What such a convolution reads and makes.
template <typename Element>
struct DepthwiseTensors {
    const Element* features;
    const DepthwiseLanes* packed;  // From depthwise_weights.
    Element* result;
    const Element* bias = nullptr;    // [channels].
    bool relu = false;                // Negative results become 0.
    const Element* slopes = nullptr;  // [channels]: negative results are multiplied with these; not with `relu`.
};

// Weights [channels, 1, kernel_height, kernel_width] in the order that the convolution wants. Of the shape only
// channels, kernel and strides matter.
template <typename Element>
std::vector<DepthwiseLanes> depthwise_weights(const Depthwise& shape, const Element* weights);

// Weights of results that lie `places.across` apart, as below, are packed for that.
template <typename Element>
std::vector<DepthwiseLanes> depthwise_weights(const Depthwise& shape, const DepthwisePlaces& places,
                                              const Element* weights);

// A value that is not finite spoils the results whose kernels meet it.
template <typename Element>
void depthwise_convolution(const Depthwise& shape, const DepthwiseTensors<Element>& tensors, const Parallel& parallel);

// The same, transposed: a feature meets the results from `down` and `across` times its row and column on, less `top` and
// `left`. Of the result, [count, result_height, result_width, channels], what no feature meets is of the bias alone.
struct DepthwiseTransposed {
    std::int64_t count, height, width, channels;
    std::int64_t kernel_height, kernel_width, down, across;
    std::int64_t top, left, result_height, result_width;
};

// For each row and column of a stride, the results of which are a convolution of the features, the weights of that one.
template <typename Element>
std::vector<std::vector<DepthwiseLanes>> depthwise_phases(const DepthwiseTransposed& shape, const Element* weights);

// `tensors.packed` is not read.
template <typename Element>
void depthwise_transposed(const DepthwiseTransposed& shape, const std::vector<std::vector<DepthwiseLanes>>& phases,
                          DepthwiseTensors<Element> tensors, const Parallel& parallel);

}  // namespace gantk::cpu::nhwc

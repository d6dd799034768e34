// SPDX-License-Identifier: Apache-2.0
// Max pooling by windows of 2 x 2, side by side, and its gradient, on a CPU.
#pragma once

#include <cstdint>

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [planes, height, width], contiguous, of at least one window; an odd last row or column is in none.
struct Pooling {
    Element element;
    std::int64_t planes, height, width;
};

// The maximum of each window, NaN where it has one, [planes, height / 2, width / 2].
void max_pool(const Pooling& shape, const void* features, void* pooled, const Parallel& parallel);

// The gradient of each window goes to the first of its four features, row by row, that is its maximum `pooled`,
// or to the last where none is; 0 elsewhere. `gradient` and `pooled` are [planes, height / 2, width / 2].
void max_pool_gradient(const Pooling& shape, const void* gradient, const void* features, const void* pooled,
                       void* features_gradient, const Parallel& parallel);

// Pictures with channels last, [count, height, width, channels], of at least one window. With `ceil` an odd last row or
// column is in windows of its own.
struct NhwcPooling {
    Element element;
    std::int64_t count, height, width, channels;
    bool ceil = false;

    std::int64_t result_height() const { return (height + ceil) / 2; }
    std::int64_t result_width() const { return (width + ceil) / 2; }
};

// The maximum of each window, NaN where it has one, [count, result_height(), result_width(), channels].
void nhwc_max_pool(const NhwcPooling& shape, const void* features, void* pooled, const Parallel& parallel);

}  // namespace gantk::cpu

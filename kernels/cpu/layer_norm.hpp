// SPDX-License-Identifier: Apache-2.0
// Layer and root mean square normalisation of pictures with channels last, each pixel over its channels, on a CPU.
#pragma once

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [pixels, channels].
struct LayerNorm {
    Element element;
    std::int64_t pixels, channels;
    float epsilon = 1e-5f;
    bool centred = true;
};

// (features - mean) / sqrt(variance + epsilon) * scale + offset, of scale and offset [channels]; the result may take
// the features' place. The variance is the mean square of what channels differ from their mean, in float32; where they
// are not centred, 0 is in the place of the mean.
void layer_norm(const LayerNorm& shape, const void* features, const float* scale, const float* offset, void* result,
                const Parallel& parallel);

}  // namespace gantk::cpu

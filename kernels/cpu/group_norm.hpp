// SPDX-License-Identifier: Apache-2.0
// Group normalisation (Wu and He, arXiv 1803.08494) with channels last, on a CPU.
#pragma once

#include "element.hpp"
#include "parallel.hpp"

namespace gantk::cpu {

// Features [count, pixels, channels]; a group is channels / groups neighbouring ones.
struct GroupNorm {
    Element element;
    std::int64_t count, pixels, channels, groups;
    float epsilon;
    bool silu = false;  // Results y become y * sigmoid(y).
};

// The result may take the features' place. Scale and offset are [channels].
struct GroupNormTensors {
    const void* features;
    void* result;
    const float *scale, *offset;
};

// Means and biased variances of each group of each picture are joined in float64 from those of some pixels each, whose
// channels are summed in float32 above what the first of them is. Results are computed in float32, and rounded once.
void group_norm(const GroupNorm& shape, const GroupNormTensors& tensors, const Parallel& parallel);

}  // namespace gantk::cpu

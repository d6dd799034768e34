// SPDX-License-Identifier: Apache-2.0
// What the Gram kernels of Hopper are given: what the others are, and a tensor map of each layer's features.
#pragma once

#include <gantk/kernels/gram_parameters.h>

namespace gantk::kernels {

// A CUtensorMap of features [N, C, K] as [K, C, N], innermost first; the front end encodes it.
struct alignas(64) FeatureMap {
    uint64_t words[16];
};

struct GramSm90Parameters {
    FeatureMap maps[kMaxGramLayers];
    GramParameters gram;
    int64_t unused[6];
};

}  // namespace gantk::kernels

// SPDX-License-Identifier: Apache-2.0
// What the kernels of the gradient share: which layer a block works on, and results in the type of the features.
#pragma once

#include <gantk/kernels/gram_gradient_parameters.h>

#include "primitives.cuh"

namespace gantk::kernels {

// The layer that has a block, by the first block of each.
GANTK_DEVICE const GramGradientLayer& layer_of(const GramGradientParameters& p, int32_t GramGradientLayer::*first) {
    int32_t index = 0;
    while (index + 1 < p.count && static_cast<int32_t>(blockIdx.x) >= p.layers[index + 1].*first) ++index;
    return p.layers[index];
}

GANTK_DEVICE void from_float(float& to, float value) { to = value; }

GANTK_DEVICE void from_float(Float16& to, float value) {
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
}

GANTK_DEVICE void from_float(BFloat16& to, float value) {
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(value));
#else  // To the nearest, ties to even; NaN stays NaN.
    const uint32_t bits = __float_as_uint(value);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    to.bits = static_cast<uint16_t>(nan ? 0x7fffu : (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
#endif
}

// Slopes of float16 have a unit for each row: see `gram_gradient_slopes.cuh`.
template <class Element>
constexpr bool kHasUnits = false;
template <>
constexpr bool kHasUnits<Float16> = true;

}  // namespace gantk::kernels

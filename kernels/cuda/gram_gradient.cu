// SPDX-License-Identifier: Apache-2.0
// The gradient of Gram matrices and of the style loss: the slopes, then their product with the features; two
// launches for all layers. Here are gantk_gram_slopes_ELEMENT and gantk_gram_gradient_simt_ELEMENT;
// `gram_gradient_half.cu` and `gram_gradient_single.cu` have the products on tensor cores.
#include "gram_gradient_simt.cuh"
#include "gram_gradient_slopes.cuh"

using namespace gantk::kernels;

#define GANTK_GRADIENT(name, Element)                                                  \
    extern "C" __global__ void __launch_bounds__(kSlopesThreads, 4)                    \
        gantk_gram_slopes_##name(const __grid_constant__ GramGradientParameters p) {   \
        let_dependent_come();                                                          \
        gram_slopes<Element>(p);                                                       \
    }                                                                                  \
    extern "C" __global__ void __launch_bounds__(kGradientSimtThreads, 2)              \
        gantk_gram_gradient_simt_##name(const __grid_constant__ GramGradientParameters p) { \
        wait_for_earlier();                                                            \
        gram_gradient_simt<Element>(p);                                                \
    }

GANTK_GRADIENT(f32, float)
GANTK_GRADIENT(f16, Float16)
GANTK_GRADIENT(bf16, BFloat16)

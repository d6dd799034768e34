// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums on Hopper (sm_90a): gantk_gram_sm90_MATH_LAYOUT. `gram_sm90.cuh` explains.
#if __CUDA_ARCH_FEAT_SM90_ALL
#include "gram_sm90.cuh"

#define GANTK_GRAM_SM90(name, Element, last)                                                            \
    extern "C" __global__ void __launch_bounds__(gantk::kernels::kSm90Threads, 1)                       \
        gantk_gram_sm90_##name(const __grid_constant__ gantk::kernels::GramSm90Parameters p) {          \
        gantk::kernels::let_dependent_come();                                                           \
        gantk::kernels::gram_partial_sm90<Element, last>(p);                                            \
    }

GANTK_GRAM_SM90(f16_nchw, gantk::kernels::Float16, false)
GANTK_GRAM_SM90(f16_nhwc, gantk::kernels::Float16, true)
GANTK_GRAM_SM90(bf16_nchw, gantk::kernels::BFloat16, false)
GANTK_GRAM_SM90(bf16_nhwc, gantk::kernels::BFloat16, true)
GANTK_GRAM_SM90(tf32_nchw, float, false)
#endif

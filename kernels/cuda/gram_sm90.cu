// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums on Hopper (sm_90a): gantk_gram_sm90_MATH, NCHW. `gram_sm90.cuh` explains.
#if __CUDA_ARCH_FEAT_SM90_ALL
#include "gram_sm90.cuh"

#define GANTK_GRAM_SM90(name, Element)                                                                  \
    extern "C" __global__ void __launch_bounds__(gantk::kernels::kSm90Threads, 1)                       \
        gantk_gram_sm90_##name(const __grid_constant__ gantk::kernels::GramSm90Parameters p) {          \
        gantk::kernels::gram_partial_sm90<Element>(p);                                                  \
    }

GANTK_GRAM_SM90(f16, gantk::kernels::Float16)
GANTK_GRAM_SM90(bf16, gantk::kernels::BFloat16)
GANTK_GRAM_SM90(tf32, float)
#endif

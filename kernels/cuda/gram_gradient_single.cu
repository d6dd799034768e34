// SPDX-License-Identifier: Apache-2.0
// The gradient of float32 features on tensor cores, from sm_80: gantk_gram_gradient_PRECISION_LAYOUT.
#include "gram_gradient_mma.cuh"

using namespace gantk::kernels;

#if __CUDA_ARCH__ >= 800
GANTK_GRADIENT_MMA(tf32, MmaTf32, kGradientBlocks)
GANTK_GRADIENT_MMA(exact, MmaExact, 1)  // Two parts of each operand want more than 128 registers.
#endif

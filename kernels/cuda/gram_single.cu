// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums of float32 features on tensor cores, as TF32 or as exact as float32 sums; from sm_80 on.
#include "gram_mma.cuh"

using namespace gantk::kernels;

#if __CUDA_ARCH__ >= 800
GANTK_GRAM_MMA(tf32, MmaTf32, 4, 2)
GANTK_GRAM_MMA(exact, MmaExact, 2, 1)  // Numbers in two parts want more registers.
#endif

// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums of 16-bit features on tensor cores; before sm_80 of float16 alone.
#include "gram_mma.cuh"

using namespace gantk::kernels;

GANTK_GRAM_MMA(f16, MmaHalf<Float16>, 4, 2)
#if __CUDA_ARCH__ >= 800
GANTK_GRAM_MMA(bf16, MmaHalf<BFloat16>, 4, 2)
#endif

// SPDX-License-Identifier: Apache-2.0
// The gradient of 16-bit features on tensor cores: gantk_gram_gradient_ELEMENT_LAYOUT. sm_75 has float16 alone.
#include "gram_gradient_mma.cuh"

using namespace gantk::kernels;

GANTK_GRADIENT_MMA(f16, MmaHalf<Float16>, kGradientBlocks)
#if __CUDA_ARCH__ >= 800
GANTK_GRADIENT_MMA(bf16, MmaHalf<BFloat16>, kGradientBlocks)
#endif

// SPDX-License-Identifier: Apache-2.0
// Partial Gram sums on tensor cores: gantk_gram_ELEMENT_LAYOUT_TILE. sm_75 has those of float16 alone.
#include "gram_mma.cuh"

using namespace gantk::kernels;

#if __CUDA_ARCH__ >= 800
constexpr int32_t kStages = 3;
#else
constexpr int32_t kStages = 2;  // 64 KiB of shared memory, and no cp.async that would use more.
#endif

// Two blocks of 256 threads or four of 128 a multiprocessor: 128 registers a thread.
#define GANTK_GRAM_MMA(name, Mma, layout, dense, tile)                                                \
    extern "C" __global__ void __launch_bounds__(2 * tile, 512 / (2 * tile))                          \
        gantk_gram_##name##_##layout##_##tile(const __grid_constant__ GramParameters p) {             \
        gram_partial_mma<Mma, dense, tile, kStages>(p);                                               \
    }
#define GANTK_GRAM_MMA_ALL(name, Mma)                 \
    GANTK_GRAM_MMA(name, Mma, nchw, true, 64)         \
    GANTK_GRAM_MMA(name, Mma, nchw, true, 128)        \
    GANTK_GRAM_MMA(name, Mma, nhwc, false, 64)        \
    GANTK_GRAM_MMA(name, Mma, nhwc, false, 128)

GANTK_GRAM_MMA_ALL(f16, MmaHalf<Float16>)
#if __CUDA_ARCH__ >= 800
GANTK_GRAM_MMA_ALL(bf16, MmaHalf<BFloat16>)
GANTK_GRAM_MMA_ALL(tf32, MmaTf32)
GANTK_GRAM_MMA_ALL(exact, MmaExact)
#endif

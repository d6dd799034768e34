// SPDX-License-Identifier: Apache-2.0
// The kernels of the Gram matrix that every architecture has: partial sums without tensor cores, the fixed-order
// reduction, the style loss. `gram_mma.cu` has the partial sums on tensor cores.
#include "gram_reduce.cuh"
#include "gram_simt.cuh"

using namespace gantk::kernels;

#define GANTK_GRAM_SIMT(name, Element)                                          \
    extern "C" __global__ void __launch_bounds__(kSimtThreads, 3)               \
        gantk_gram_simt_##name(const __grid_constant__ GramParameters p) {      \
        let_dependent_come();                                                   \
        gram_partial_simt<Element>(p);                                          \
    }

GANTK_GRAM_SIMT(f32, float)
GANTK_GRAM_SIMT(f16, Float16)
GANTK_GRAM_SIMT(bf16, BFloat16)

extern "C" __global__ void __launch_bounds__(kReduceThreads)
    gantk_gram_reduce(const __grid_constant__ GramParameters p) {
    if (p.loss != nullptr) let_dependent_come();
    wait_for_earlier();
    gram_reduce(p);
}

extern "C" __global__ void __launch_bounds__(kReduceThreads)
    gantk_gram_finish(const __grid_constant__ GramParameters p) {
    wait_for_earlier();
    gram_finish(p);
}

// SPDX-License-Identifier: Apache-2.0
// Entry points: gantk_variation_KIND_packed_TYPE[_gradient] for rows of 16-byte packs, gantk_variation_strided_TYPE
// [_gradient] for any strides and kind, and the sum of partials where that is a second launch.
#include "variation.cuh"

using namespace gantk::kernels;

// `resident` blocks are to fit on a multiprocessor: enough bytes are then under way, and no register is spilled.
#define GANTK_VARIATION(name, Kind, Rows, gradient, resident)                   \
    extern "C" __global__ void __launch_bounds__(kThreads, resident)            \
        gantk_variation_##name(const __grid_constant__ VariationParameters p) { \
        if (p.counters == nullptr && p.blocks > 1) let_dependent_come();        \
        variation<Kind, Rows, gradient>(p);                                     \
    }

#define GANTK_VARIATION_OF_TYPE(type, Type)                                                   \
    GANTK_VARIATION(l1_packed_##type, L1, PackedRows<Type>, false, 8)                         \
    GANTK_VARIATION(l2_packed_##type, L2, PackedRows<Type>, false, 8)                         \
    GANTK_VARIATION(isotropic_packed_##type, Isotropic, PackedRows<Type>, false, 8)           \
    GANTK_VARIATION(strided_##type, AnyKind, StridedRows<Type>, false, 8)                     \
    GANTK_VARIATION(l1_packed_##type##_gradient, L1, PackedRows<Type>, true, 5)               \
    GANTK_VARIATION(l2_packed_##type##_gradient, L2, PackedRows<Type>, true, 5)               \
    GANTK_VARIATION(isotropic_packed_##type##_gradient, Isotropic, PackedRows<Type>, true, 5) \
    GANTK_VARIATION(strided_##type##_gradient, AnyKind, StridedRows<Type>, true, 8)

GANTK_VARIATION_OF_TYPE(float32, float)
GANTK_VARIATION_OF_TYPE(float16, Float16)
GANTK_VARIATION_OF_TYPE(bfloat16, BFloat16)

extern "C" __global__ void __launch_bounds__(kThreads)
    gantk_variation_finish(const __grid_constant__ VariationParameters p) {
    wait_for_earlier();
    const int64_t picture = picture_of_block();
    if (picture < p.batch) finish(p, picture);
}

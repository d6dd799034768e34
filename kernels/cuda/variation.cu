// SPDX-License-Identifier: Apache-2.0
// Entry points: gantk_variation_KIND_packed_TYPE[_gradient] for rows of 16-byte packs, gantk_variation_strided_TYPE
// [_gradient] for any strides and kind, and the sum of partials where that is a second launch.
#include "variation.cuh"

using namespace gantk::kernels;

#define GANTK_VARIATION(name, Kind, Rows, gradient)                                                            \
  extern "C" __global__ void __launch_bounds__(kThreads) name(const __grid_constant__ VariationParameters p) { \
    variation<Kind, Rows, gradient>(p);                                                                        \
    }

#define GANTK_VARIATION_OF_TYPE(type, Type)                                                              \
  GANTK_VARIATION(gantk_variation_l1_packed_##type, L1, PackedRows<Type>, false)                         \
  GANTK_VARIATION(gantk_variation_l2_packed_##type, L2, PackedRows<Type>, false)                         \
  GANTK_VARIATION(gantk_variation_isotropic_packed_##type, Isotropic, PackedRows<Type>, false)           \
  GANTK_VARIATION(gantk_variation_strided_##type, AnyKind, StridedRows<Type>, false)                     \
  GANTK_VARIATION(gantk_variation_l1_packed_##type##_gradient, L1, PackedRows<Type>, true)               \
  GANTK_VARIATION(gantk_variation_l2_packed_##type##_gradient, L2, PackedRows<Type>, true)               \
  GANTK_VARIATION(gantk_variation_isotropic_packed_##type##_gradient, Isotropic, PackedRows<Type>, true) \
    GANTK_VARIATION(gantk_variation_strided_##type##_gradient, AnyKind, StridedRows<Type>, true)

GANTK_VARIATION_OF_TYPE(float32, Float32)
GANTK_VARIATION_OF_TYPE(float16, Float16)
GANTK_VARIATION_OF_TYPE(bfloat16, BFloat16)

extern "C" __global__ void __launch_bounds__(kThreads) gantk_variation_finish(
        const __grid_constant__ VariationParameters p) {
    const int64_t picture = picture_of_block();
    if (picture < p.batch) finish(p, picture);
}

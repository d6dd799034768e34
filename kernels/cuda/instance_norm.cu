// SPDX-License-Identifier: Apache-2.0
// Entry points: gantk_instance_norm_moments_TYPE[_packed] and gantk_instance_norm_apply_TYPE[_packed], packed where
// channels are whole packs of 16 bytes, and gantk_instance_norm_finish between them.
#include "instance_norm.cuh"

using namespace gantk::kernels;

#define GANTK_INSTANCE_NORM(name, Element, channels)                                 \
    extern "C" __global__ void __launch_bounds__(kNormThreads)                       \
        gantk_instance_norm_moments_##name(const __grid_constant__ InstanceNormParameters p) { \
        let_dependent_come();                                                        \
        moments<Element, channels>(p);                                               \
    }                                                                                \
    extern "C" __global__ void __launch_bounds__(kNormThreads)                       \
        gantk_instance_norm_apply_##name(const __grid_constant__ InstanceNormParameters p) {   \
        apply<Element, channels>(p);                                                 \
    }

#define GANTK_INSTANCE_NORM_OF_TYPE(type, Type) \
    GANTK_INSTANCE_NORM(type, Type, 1)          \
    GANTK_INSTANCE_NORM(type##_packed, Type, kPack<Type>)

GANTK_INSTANCE_NORM_OF_TYPE(float32, float)
GANTK_INSTANCE_NORM_OF_TYPE(float16, Float16)
GANTK_INSTANCE_NORM_OF_TYPE(bfloat16, BFloat16)

extern "C" __global__ void __launch_bounds__(kNormFinishChannels * kNormFinishRows, 2)
    gantk_instance_norm_finish(const __grid_constant__ InstanceNormParameters p) {
    let_dependent_come();
    wait_for_earlier();
    finish(p);
}

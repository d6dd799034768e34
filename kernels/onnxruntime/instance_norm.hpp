// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <gantk/kernels/instance_norm_plan.hpp>

#include "kernel.hpp"

namespace gantk::onnxruntime {

// What operators of the family leave to a device.
struct NormDevice {
    kernels::Device (*device)();
    std::int32_t (*alignment)(const void* address);  // As NormPictures has it.
    void (*run)(Ort::KernelContext& context, const Ort::ConstValue& features, Element element,
                const kernels::InstanceNormPlan& plan, const kernels::NormData& data);
};

#ifdef GANTK_HAS_CUDA
extern const NormDevice kNormCuda;
#endif

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// What the kernels of the total variation share, on a CPU and on a GPU.
#pragma once

#include <gantk/kernels/variation_plan.hpp>

#include "kernel.hpp"

namespace gantk::onnxruntime {

// The attributes `kind` and `epsilon`.
//
// Throws Error where they are none of those allowed.
struct VariationAttributes {
    kernels::VariationKind kind;
    float epsilon;

    explicit VariationAttributes(const OrtKernelInfo* info);
};

// Of pictures [N, C, H, W].
Shape pictures_shape(const Ort::ConstValue& pictures);

#ifdef GANTK_HAS_CUDA
std::unique_ptr<Kernel> make_total_variation_cuda(const Making& making);
#endif

}  // namespace gantk::onnxruntime

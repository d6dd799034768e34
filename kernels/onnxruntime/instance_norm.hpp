// SPDX-License-Identifier: Apache-2.0
#pragma once

#include "kernel.hpp"

namespace gantk::onnxruntime {

#ifdef GANTK_HAS_CUDA
std::unique_ptr<Kernel> make_bias_relu_cuda(const Making& making);
std::unique_ptr<Kernel> make_bordered_blocks_cuda(const Making& making);
std::unique_ptr<Kernel> make_instance_norm_cuda(const Making& making);
std::unique_ptr<Kernel> make_instance_norm_relu_cuda(const Making& making);
std::unique_ptr<Kernel> make_instance_norm_sum_cuda(const Making& making);
#endif

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// What the kernels of the Gram matrix and of its gradient share, on a CPU and on a GPU.
#pragma once

#include "kernel.hpp"

namespace gantk::onnxruntime {

// The attribute `scale`, of which 0 stands for 1 / K.
class Scale {
  public:
    explicit Scale(const OrtKernelInfo* info) : given_(float_attribute(info, "scale", 0)) {}
    double of(std::int64_t places) const {
        return given_ != 0 ? double{given_} : 1.0 / static_cast<double>(places);
    }

  private:
    float given_;
};

Shape features_shape(const Ort::ConstValue& features);

// How many places (all sizes after those of batch and channels) features have.
std::int64_t places_of(const Shape& features);

// Throws Error where a gradient [N, C, C] does not belong to features [N, C, ...].
void check_gradient(const Ort::ConstValue& gradient, const Shape& features);

#ifdef GANTK_HAS_CUDA
std::unique_ptr<Kernel> make_gram_matrix_cuda(const Making& making);
std::unique_ptr<Kernel> make_gram_matrix_grad_cuda(const Making& making);
#endif

}  // namespace gantk::onnxruntime

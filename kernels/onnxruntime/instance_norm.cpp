// SPDX-License-Identifier: Apache-2.0
// InstanceNorm, InstanceNormRelu <epsilon, from_blocksize, to_blocksize, mode, pads>
//     (features T[N, h, w, b * b * C], starts int64[2], ends int64[2], scale float32[C] or [N, C], offset: the same)
//     => (result T[N, h', w', t * t * C])
// InstanceNormSum <..., others_pads> (..., others T[N, H', W', C]) => (result)
#include "instance_norm.hpp"

namespace gantk::onnxruntime {
namespace {

#ifdef GANTK_HAS_CUDA
constexpr Make kMakes[] = {make_instance_norm_cuda, make_instance_norm_relu_cuda, make_instance_norm_sum_cuda};
#else
constexpr Make kMakes[] = {nullptr, nullptr, nullptr};
#endif

Signature signature(const char* name, Make cuda, bool adds) {
    std::vector<Type> inputs{Type::element, Type::sizes, Type::sizes, Type::float32, Type::float32};
    if (adds) inputs.push_back(Type::element);
    // Sizes are known when starts and ends are, which is at run time.
    const auto infer = [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {};
    return {name, inputs, {Type::element}, nullptr, cuda, infer};
}

}  // namespace

const Signature kInstanceNorm = signature("InstanceNorm", kMakes[0], false);
const Signature kInstanceNormRelu = signature("InstanceNormRelu", kMakes[1], false);
const Signature kInstanceNormSum = signature("InstanceNormSum", kMakes[2], true);

}  // namespace gantk::onnxruntime

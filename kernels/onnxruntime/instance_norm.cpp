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

Signature signature(const char* name, Make cuda, std::vector<Type> inputs) {
    // Sizes are known when starts and ends are, which is at run time.
    const auto infer = [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {};
    return {name, std::move(inputs), {Type::element}, nullptr, cuda, infer};
}

const std::vector<Type> kInputs{Type::element, Type::sizes, Type::sizes, Type::float32, Type::float32};
const std::vector<Type> kWithOthers{Type::element, Type::sizes,   Type::sizes,
                                    Type::float32, Type::float32, Type::element};

}  // namespace

const Signature kInstanceNorm = signature("InstanceNorm", kMakes[0], kInputs);
const Signature kInstanceNormRelu = signature("InstanceNormRelu", kMakes[1], kInputs);
const Signature kInstanceNormSum = signature("InstanceNormSum", kMakes[2], kWithOthers);

}  // namespace gantk::onnxruntime

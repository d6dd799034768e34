// SPDX-License-Identifier: Apache-2.0
// InstanceNorm, InstanceNormRelu <epsilon, from_blocksize, to_blocksize, mode, pads>
//     (features T[N, h, w, b * b * C], starts int64[2], ends int64[2], scale float32[C] or [N, C], offset: the same)
//     => (result T[N, h', w', t * t * C])
// InstanceNormSum <..., others_pads> (..., others T[N, H', W', C]) => (result)
// BorderedBlocks <to_blocksize, mode, pads> (features T[N, H, W, C]) => (result T[N, h', w', t * t * C])
// BiasRelu (features T[N, H, W, C], bias float32[C]) => (result T[N, H, W, C])
// Sizes <factor, growth> (sizes int64[2]) => (result int64[2])
#include "instance_norm.hpp"

namespace gantk::onnxruntime {
namespace {

#ifdef GANTK_HAS_CUDA
constexpr Make kMakes[] = {make_instance_norm_cuda, make_instance_norm_relu_cuda, make_instance_norm_sum_cuda,
                           make_bordered_blocks_cuda, make_bias_relu_cuda};
#else
constexpr Make kMakes[] = {nullptr, nullptr, nullptr, nullptr, nullptr};
#endif

// On the CPU also in sessions for GPUs: what ONNX Runtime computes of sizes on a GPU it waits for.
class Sizes : public Kernel {
  public:
    explicit Sizes(const Making& making)
        : factor_(int_attribute(making.info, "factor", 1)), growth_(ints_attribute(making.info, "growth", 2)) {}

    void compute(Ort::KernelContext& context) const override {
        const auto sizes = context.GetInput(0);
        const Shape shape = sizes.GetTensorTypeAndShapeInfo().GetShape();
        if (shape != Shape{2}) throw Error("sizes have shape " + text_of(shape) + "; [2] is wanted");
        auto result = context.GetOutput(0, Shape{2});
        for (int axis = 0; axis < 2; ++axis)
            result.GetTensorMutableData<std::int64_t>()[axis] =
                sizes.GetTensorData<std::int64_t>()[axis] * factor_ + growth_[axis];
    }

  private:
    std::int64_t factor_;
    Shape growth_;
};

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
const Signature kBorderedBlocks = signature("BorderedBlocks", kMakes[3], {Type::element});
const Signature kBiasRelu{"BiasRelu",
                          {Type::element, Type::float32},
                          {Type::element},
                          nullptr,
                          kMakes[4],
                          [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                              shapes[0] = context.GetInputShape(0);
                          }};
const Signature kSizes{"Sizes",
                       {Type::sizes},
                       {Type::sizes},
                       [](const Making& making) -> std::unique_ptr<Kernel> { return std::make_unique<Sizes>(making); },
                       nullptr,
                       [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                           shapes[0] = context.GetInputShape(0);
                       }};

}  // namespace gantk::onnxruntime

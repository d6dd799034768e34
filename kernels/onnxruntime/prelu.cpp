// SPDX-License-Identifier: Apache-2.0
// NhwcPRelu (features T[N, H, W, C], slopes T[C]) => (result T[N, H, W, C])
#include "../cpu/affine.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

class NhwcPRelu : public Kernel {
  public:
    explicit NhwcPRelu(const Making& making) : element_(making.element) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), slopes = context.GetInput(1);
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        const Shape given = slopes.GetTensorTypeAndShapeInfo().GetShape(), wanted{shape[3]};
        if (given != wanted)
            throw Error("slopes have shape " + text_of(given) + "; " + text_of(wanted) + " belongs to features " +
                        text_of(shape));
        auto result = context.GetOutput(0, shape);
        std::vector<float> wide(static_cast<std::size_t>(shape[3]));
        cpu::widen(element_, slopes.GetTensorRawData(), 0, shape[3], wide.data());
        cpu::AffineTensors tensors{features.GetTensorRawData(), result.GetTensorMutableRawData()};
        tensors.slopes = wide.data();
        cpu::affine({element_, shape[0], shape[1] * shape[2], shape[3]}, tensors, threads_of(context));
    }

  private:
    Element element_;
};

}  // namespace

const Signature kNhwcPRelu =
    in_place({"NhwcPRelu",
              {Type::element, Type::element},
              {Type::element},
              [](const Making& making) -> std::unique_ptr<Kernel> { return std::make_unique<NhwcPRelu>(making); },
              nullptr,
              [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                  shapes[0] = context.GetInputShape(0);
              }});

}  // namespace gantk::onnxruntime

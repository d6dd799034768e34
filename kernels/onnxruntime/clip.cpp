// SPDX-License-Identifier: Apache-2.0
// NhwcClip <low, high> (features T[N, H, W, C]) => (result T[N, H, W, C])
#include <limits>

#include "../cpu/affine.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

class NhwcClip : public Kernel {
  public:
    explicit NhwcClip(const Making& making)
        : element_(making.element),
          low_(float_attribute(making.info, "low", std::numeric_limits<float>::lowest())),
          high_(float_attribute(making.info, "high", std::numeric_limits<float>::max())) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        auto result = context.GetOutput(0, shape);
        cpu::Affine what{element_, shape[0], shape[1] * shape[2], shape[3]};
        what.clips = true;
        what.low = low_;
        what.high = high_;
        cpu::affine(what, {features.GetTensorRawData(), result.GetTensorMutableRawData()}, threads_of(context));
    }

  private:
    Element element_;
    float low_, high_;
};

}  // namespace

const Signature kNhwcClip =
    in_place({"NhwcClip",
              {Type::element},
              {Type::element},
              [](const Making& making) -> std::unique_ptr<Kernel> { return std::make_unique<NhwcClip>(making); },
              nullptr,
              [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                  shapes[0] = context.GetInputShape(0);
              }});

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// NhwcLayerNorm, NhwcRmsNorm <epsilon> (features T[N, H, W, C], scale float32[C], offset float32[C])
//     => (result T[N, H, W, C])
#include "../cpu/layer_norm.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

class NhwcPixelNorm : public Kernel {
  public:
    NhwcPixelNorm(const Making& making, bool centred)
        : element_(making.element), epsilon_(float_attribute(making.info, "epsilon", 1e-5f)), centred_(centred) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), scale = context.GetInput(1), offset = context.GetInput(2);
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        expect_by_channel(scale, "the scale", shape);
        expect_by_channel(offset, "the offset", shape);
        auto result = context.GetOutput(0, shape);
        cpu::layer_norm({element_, shape[0] * shape[1] * shape[2], shape[3], epsilon_, centred_},
                        features.GetTensorRawData(), scale.GetTensorData<float>(), offset.GetTensorData<float>(),
                        result.GetTensorMutableRawData(), threads_of(context));
    }

  private:
    static void expect_by_channel(const Ort::ConstValue& value, const char* name, const Shape& features) {
        const Shape given = value.GetTensorTypeAndShapeInfo().GetShape(), wanted{features[3]};
        if (given != wanted)
            throw Error(std::string(name) + " has shape " + text_of(given) + "; " + text_of(wanted) +
                        " belongs to features " + text_of(features));
    }

    Element element_;
    float epsilon_;
    bool centred_;
};

template <bool kCentred>
Signature pixel_norm_signature(const char* name) {
    return in_place({name,
                     {Type::element, Type::float32, Type::float32},
                     {Type::element},
                     [](const Making& making) -> std::unique_ptr<Kernel> {
                         return std::make_unique<NhwcPixelNorm>(making, kCentred);
                     },
                     nullptr,
                     [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                         shapes[0] = context.GetInputShape(0);
                     }});
}

}  // namespace

const Signature kNhwcLayerNorm = pixel_norm_signature<true>("NhwcLayerNorm");
const Signature kNhwcRmsNorm = pixel_norm_signature<false>("NhwcRmsNorm");

}  // namespace gantk::onnxruntime

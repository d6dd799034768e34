// SPDX-License-Identifier: Apache-2.0
// ToPicture (features T[N, H, W, C], before float32[C], weights T[C, M, 4, 4], bias float32[M])
//     => (picture T[N, M, 2H, 2W])
#include <gantk/kernels/to_picture_plan.hpp>

#include "cuda.hpp"

namespace gantk::onnxruntime {
namespace {

std::array<std::int64_t, 4> four(const Ort::ConstValue& value, const char* name, const char* wanted) {
    const Shape shape = shape_of(value, name, 4, false, wanted);
    return {shape[0], shape[1], shape[2], shape[3]};
}

const float* numbers(const Ort::ConstValue& value, const char* name, std::int64_t count) {
    const Shape given = value.GetTensorTypeAndShapeInfo().GetShape(), wanted{count};
    if (given != wanted)
        throw Error(std::string(name) + " has shape " + text_of(given) + "; " + text_of(wanted) + " is wanted");
    return value.GetTensorData<float>();
}

class ToPicture : public Kernel {
  public:
    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0), weights = context.GetInput(2);
        const auto shape = four(features, "features", "N x H x W x C"), kernel = four(weights, "weights", "C x M x 4 x 4");
        kernels::ToPictureData data;
        data.features = features.GetTensorRawData();
        data.weights = weights.GetTensorRawData();
        const auto plan = kernels::plan_to_picture(
            shape, kernel, std::min(driver::alignment_of(data.features), driver::alignment_of(data.weights)));
        data.before = numbers(context.GetInput(1), "the bias before", shape[3]);
        data.bias = numbers(context.GetInput(3), "the bias", kernel[1]);
        data.picture = context.GetOutput(0, {plan.picture_shape.begin(), plan.picture_shape.end()})
                           .GetTensorMutableRawData();
        launch(context, {plan.launch(data)});
    }
};

}  // namespace

const Signature kToPicture{
    "ToPicture",
    {Type::element, Type::float32, Type::element, Type::float32},
    {Type::element},
    nullptr,
    [](const Making&) -> std::unique_ptr<Kernel> { return std::make_unique<ToPicture>(); },
    [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {},
    4,
    {Element::float16}};

}  // namespace gantk::onnxruntime

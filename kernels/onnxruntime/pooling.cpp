// SPDX-License-Identifier: Apache-2.0
// MaxPool2x2 (features T[N, C, H, W]) => (pooled T[N, C, h, w])
// MaxPool2x2Grad (gradient T[N, C, h, w], features T[N, C, H, W], pooled T[N, C, h, w])
//     => (features_gradient T[N, C, H, W]), h = floor(H / 2), w = floor(W / 2)
// NhwcMaxPool2x2 <ceil_mode> (features T[N, H, W, C]) => (pooled T[N, h, w, C]), or with 1 as many as half a window makes
#include "../cpu/pooling.hpp"
#include "kernel.hpp"

namespace gantk::onnxruntime {
namespace {

Shape features_shape(const Ort::ConstValue& features) {
    const Shape shape = shape_of(features, "features", 4, false, "N x C x H x W");
    if (shape[2] < 2 || shape[3] < 2)
        throw Error("features have shape " + text_of(shape) + "; at least 2 rows and 2 columns are wanted");
    return shape;
}

Shape pooled_shape(const Shape& features) {
    return {features[0], features[1], features[2] / 2, features[3] / 2};
}

class MaxPoolCpu : public Kernel {
  public:
    explicit MaxPoolCpu(const Making& making) : element_(making.element) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape large = features_shape(features);
        auto pooled = context.GetOutput(0, pooled_shape(large));
        cpu::max_pool({element_, large[0] * large[1], large[2], large[3]}, features.GetTensorRawData(),
                      pooled.GetTensorMutableRawData(), threads_of(context));
    }

  private:
    Element element_;
};

class MaxPoolGradCpu : public Kernel {
  public:
    explicit MaxPoolGradCpu(const Making& making) : element_(making.element) {}

    void compute(Ort::KernelContext& context) const override {
        const auto gradient = context.GetInput(0), features = context.GetInput(1), pooled = context.GetInput(2);
        const Shape large = features_shape(features), small = pooled_shape(large);
        expect(gradient, "the gradient has", small, large);
        expect(pooled, "what was pooled has", small, large);
        auto made = context.GetOutput(0, large);
        cpu::max_pool_gradient({element_, large[0] * large[1], large[2], large[3]}, gradient.GetTensorRawData(),
                               features.GetTensorRawData(), pooled.GetTensorRawData(),
                               made.GetTensorMutableRawData(), threads_of(context));
    }

  private:
    static void expect(const Ort::ConstValue& value, const char* who, const Shape& wanted, const Shape& features) {
        const Shape shape = value.GetTensorTypeAndShapeInfo().GetShape();
        if (shape != wanted)
            throw Error(std::string(who) + " shape " + text_of(shape) + "; " + text_of(wanted) +
                        " belongs to features " + text_of(features));
    }

    Element element_;
};

class NhwcMaxPoolCpu : public Kernel {
  public:
    explicit NhwcMaxPoolCpu(const Making& making)
        : element_(making.element), ceil_(int_attribute(making.info, "ceil_mode", 0) != 0) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape shape = shape_of(features, "features", 4, false, "N x H x W x C");
        const cpu::NhwcPooling pooling{element_, shape[0], shape[1], shape[2], shape[3], ceil_};
        if (pooling.result_height() < 1 || pooling.result_width() < 1)
            throw Error("features have shape " + text_of(shape) + "; at least 2 rows and 2 columns are wanted");
        auto pooled = context.GetOutput(0, {shape[0], pooling.result_height(), pooling.result_width(), shape[3]});
        cpu::nhwc_max_pool(pooling, features.GetTensorRawData(), pooled.GetTensorMutableRawData(), threads_of(context));
    }

  private:
    Element element_;
    bool ceil_;
};

}  // namespace

const Signature kMaxPool{"MaxPool2x2",
                         {Type::element},
                         {Type::element},
                         [](const Making& making) -> std::unique_ptr<Kernel> {
                             return std::make_unique<MaxPoolCpu>(making);
                         },
                         nullptr,
                         [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                             const auto& features = context.GetInputShape(0);
                             if (features.size() != 4 || !features[2].IsInt() || !features[3].IsInt()) return;
                             shapes[0] = {features[0], features[1], features[2].AsInt() / 2,
                                          features[3].AsInt() / 2};
                         }};
const Signature kMaxPoolGrad{"MaxPool2x2Grad",
                             {Type::element, Type::element, Type::element},
                             {Type::element},
                             [](const Making& making) -> std::unique_ptr<Kernel> {
                                 return std::make_unique<MaxPoolGradCpu>(making);
                             },
                             nullptr,
                             [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
                                 shapes[0] = context.GetInputShape(1);
                             }};

const Signature kNhwcMaxPool{"NhwcMaxPool2x2",
                             {Type::element},
                             {Type::element},
                             [](const Making& making) -> std::unique_ptr<Kernel> {
                                 return std::make_unique<NhwcMaxPoolCpu>(making);
                             },
                             nullptr,
                             // Sizes depend on an attribute, which cannot be asked for there.
                             [](Ort::ShapeInferContext&, Ort::ShapeInferContext::Shape (&)[2]) {}};

}  // namespace gantk::onnxruntime

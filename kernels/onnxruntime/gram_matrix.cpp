// SPDX-License-Identifier: Apache-2.0
// GramMatrix <scale: float = 0> (features T[N, C, ...]) => (gram float32[N, C, C])
// GramMatrixGrad <scale: float = 0> (gradient float32[N, C, C], features T[N, C, ...]) => (features_gradient
// T[N, C, ...])
#include "gram_matrix.hpp"

#include "../cpu/gram.hpp"

namespace gantk::onnxruntime {
namespace {

using Symbols = Ort::ShapeInferContext::Shape;

class GramMatrixCpu : public Kernel {
  public:
    explicit GramMatrixCpu(const Making& making) : element_(making.element), scale_(making.info) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape shape = features_shape(features);
        const cpu::Features sizes{element_, shape[0], shape[1], places_of(shape)};
        auto gram = context.GetOutput(0, {shape[0], shape[1], shape[1]});
        const CpuWorkspace workspace(context, cpu::gram_workspace_bytes(sizes));
        cpu::gram_matrix(sizes, features.GetTensorRawData(), scale_.of(sizes.places),
                         gram.GetTensorMutableData<float>(), workspace.data(), threads_of(context));
    }

  private:
    Element element_;
    Scale scale_;
};

class GramMatrixGradCpu : public Kernel {
  public:
    explicit GramMatrixGradCpu(const Making& making) : element_(making.element), scale_(making.info) {}

    void compute(Ort::KernelContext& context) const override {
        const auto gradient = context.GetInput(0), features = context.GetInput(1);
        const Shape shape = features_shape(features);
        check_gradient(gradient, shape);
        const cpu::Features sizes{element_, shape[0], shape[1], places_of(shape)};
        auto result = context.GetOutput(0, shape);
        const CpuWorkspace workspace(context, cpu::gram_gradient_workspace_bytes(sizes));
        cpu::gram_gradient(sizes, gradient.GetTensorData<float>(), features.GetTensorRawData(),
                           scale_.of(sizes.places), result.GetTensorMutableRawData(), workspace.data(),
                           threads_of(context));
    }

  private:
    Element element_;
    Scale scale_;
};

template <typename Made>
std::unique_ptr<Kernel> make(const Making& making) {
    return std::make_unique<Made>(making);
}

void infer_gram(Ort::ShapeInferContext& context, Symbols (&shapes)[2]) {
    const Symbols& features = context.GetInputShape(0);
    if (features.size() >= 3) shapes[0] = {features[0], features[1], features[1]};
}

void infer_gradient(Ort::ShapeInferContext& context, Symbols (&shapes)[2]) {
    shapes[0] = context.GetInputShape(1);
}

}  // namespace

Shape features_shape(const Ort::ConstValue& features) {
    return shape_of(features, "features", 3, true, "N x C x H x W or N x C x K");
}

std::int64_t places_of(const Shape& shape) {
    std::int64_t places = 1;
    for (std::size_t axis = 2; axis < shape.size(); ++axis) places *= shape[axis];
    return places;
}

void check_gradient(const Ort::ConstValue& gradient, const Shape& features) {
    const Shape wanted{features[0], features[1], features[1]},
        shape = gradient.GetTensorTypeAndShapeInfo().GetShape();
    if (shape != wanted)
        throw Error("the gradient of Gram matrices has shape " + text_of(shape) + "; " + text_of(wanted) +
                    " belongs to features " + text_of(features));
}

#ifdef GANTK_HAS_CUDA
constexpr Make kGramMatrixCuda = make_gram_matrix_cuda, kGramMatrixGradCuda = make_gram_matrix_grad_cuda;
#else
constexpr Make kGramMatrixCuda = nullptr, kGramMatrixGradCuda = nullptr;
#endif

const Signature kGramMatrix{"GramMatrix",        {Type::element}, {Type::float32},
                            make<GramMatrixCpu>, kGramMatrixCuda, infer_gram};
const Signature kGramMatrixGrad{"GramMatrixGrad",   {Type::float32, Type::element},
                                {Type::element},    make<GramMatrixGradCpu>,
                                kGramMatrixGradCuda, infer_gradient};

}  // namespace gantk::onnxruntime

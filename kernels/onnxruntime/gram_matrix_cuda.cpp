// SPDX-License-Identifier: Apache-2.0
#include <gantk/kernels/gram_gradient_plan.hpp>
#include <gantk/kernels/gram_plan.hpp>

#include "cuda.hpp"
#include "gram_matrix.hpp"

namespace gantk::onnxruntime {
namespace {

using kernels::Precision;

kernels::Features laid_out(Element element, const Shape& shape, const void* data) {
    const std::int64_t places = places_of(shape);
    kernels::Features features;
    features.element = element;
    features.pictures = shape[0];
    features.channels = shape[1];
    features.places = places;
    features.batch_stride = shape[1] * places;
    features.channel_stride = places;
    features.place_stride = 1;
    features.alignment = driver::alignment_of(data);
    return features;
}

class GramMatrixCuda : public Kernel {
  public:
    explicit GramMatrixCuda(const Making& making) : element_(making.element), scale_(making.info) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape shape = features_shape(features);
        auto gram = context.GetOutput(0, {shape[0], shape[1], shape[1]});
        kernels::GramLayerData layer;
        layer.features = features.GetTensorRawData();
        layer.gram = gram.GetTensorMutableData<float>();
        layer.scale = scale_.of(places_of(shape));
        const kernels::GramPlan plan = kernels::plan_gram({laid_out(element_, shape, layer.features)},
                                                          driver::current_device(), Precision::exact);
        const CudaWorkspace workspace(context, features, plan.workspace_bytes);
        launch(context, plan.launches({layer}, workspace.data()));
    }

  private:
    Element element_;
    Scale scale_;
};

class GramMatrixGradCuda : public Kernel {
  public:
    explicit GramMatrixGradCuda(const Making& making) : element_(making.element), scale_(making.info) {}

    void compute(Ort::KernelContext& context) const override {
        const auto gradient = context.GetInput(0), features = context.GetInput(1);
        const Shape shape = features_shape(features);
        check_gradient(gradient, shape);
        auto result = context.GetOutput(0, shape);
        kernels::GradientLayerData layer;
        layer.gradient = gradient.GetTensorData<float>();
        layer.features = features.GetTensorRawData();
        layer.result = result.GetTensorMutableRawData();
        layer.scale = scale_.of(places_of(shape));
        const kernels::GramGradientPlan plan = kernels::plan_gram_gradient(
            {laid_out(element_, shape, layer.features)}, driver::current_device(), Precision::exact,
            {laid_out(element_, shape, layer.result)});
        const CudaWorkspace workspace(context, features, plan.workspace_bytes);
        launch(context, plan.launches({layer}, workspace.data()));
    }

  private:
    Element element_;
    Scale scale_;
};

}  // namespace

std::unique_ptr<Kernel> make_gram_matrix_cuda(const Making& making) {
    return std::make_unique<GramMatrixCuda>(making);
}

std::unique_ptr<Kernel> make_gram_matrix_grad_cuda(const Making& making) {
    return std::make_unique<GramMatrixGradCuda>(making);
}

}  // namespace gantk::onnxruntime

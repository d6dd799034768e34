// SPDX-License-Identifier: Apache-2.0
#include <gantk/kernels/gram_plan.hpp>

#include "cuda.hpp"
#include "gram_matrix.hpp"

namespace gantk::onnxruntime {
namespace {

class GramMatrixCuda : public Kernel {
  public:
    explicit GramMatrixCuda(const Making& making) : element_(making.element), scale_(making.info) {}

    void compute(Ort::KernelContext& context) const override {
        const auto features = context.GetInput(0);
        const Shape shape = features_shape(features);
        const std::int64_t places = places_of(shape);
        auto gram = context.GetOutput(0, {shape[0], shape[1], shape[1]});
        const void* const data = features.GetTensorRawData();
        const kernels::Features laid{element_,          shape[0], shape[1], places,
                                     shape[1] * places, places,   1,        driver::alignment_of(data)};
        const kernels::GramPlan plan =
            kernels::plan_gram({laid}, driver::current_device(), kernels::Precision::exact);
        const CudaWorkspace workspace(context, features, plan.workspace_bytes);
        kernels::GramLayerData layer;
        layer.features = data;
        layer.gram = gram.GetTensorMutableData<float>();
        layer.scale = scale_.of(places);
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

}  // namespace gantk::onnxruntime

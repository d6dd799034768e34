// SPDX-License-Identifier: Apache-2.0
#include "cuda.hpp"
#include "total_variation.hpp"

namespace gantk::onnxruntime {
namespace {

using kernels::Pictures;

Pictures laid_out(Element element, const Shape& shape, const void* data) {
    return {element,
            {shape[0], shape[1], shape[2], shape[3]},
            {shape[1] * shape[2] * shape[3], shape[2] * shape[3], shape[3], 1},
            driver::alignment_of(data)};
}

class TotalVariationCuda : public Kernel {
  public:
    explicit TotalVariationCuda(const Making& making) : element_(making.element), attributes_(making.info) {}

    void compute(Ort::KernelContext& context) const override {
        const auto pictures = context.GetInput(0);
        const Shape shape = pictures_shape(pictures);
        auto value = context.GetOutput(0, {shape[0]});
        auto gradient = context.GetOutput(1, shape);
        const void* const from = pictures.GetTensorRawData();
        void* const into = gradient.GetTensorMutableRawData();
        const Pictures gradient_laid = laid_out(element_, shape, into);
        const kernels::VariationPlan plan =
            kernels::plan_variation(laid_out(element_, shape, from), attributes_.kind, attributes_.epsilon,
                                    driver::current_device(), &gradient_laid);
        const CudaWorkspace workspace(context, pictures, plan.workspace_bytes);
        launch(context,
               plan.launches(driver::address_of(from), driver::address_of(value.GetTensorMutableRawData()),
                             driver::address_of(into), workspace.address(), 0));
    }

  private:
    Element element_;
    VariationAttributes attributes_;
};

}  // namespace

std::unique_ptr<Kernel> make_total_variation_cuda(const Making& making) {
    return std::make_unique<TotalVariationCuda>(making);
}

}  // namespace gantk::onnxruntime

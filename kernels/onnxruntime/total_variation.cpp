// SPDX-License-Identifier: Apache-2.0
// TotalVariation <kind: string = "l1", epsilon: float = 1e-8> (pictures T[N, C, H, W])
//     => (value float32[N], gradient T[N, C, H, W])
#include "total_variation.hpp"

#include <cmath>

#include "../cpu/variation.hpp"

namespace gantk::onnxruntime {
namespace {

using kernels::VariationKind;

VariationKind kind_of(const OrtKernelInfo* info) {
    const std::string kind = string_attribute(info, "kind", "l1");
    if (kind == "l1") return VariationKind::l1;
    if (kind == "l2") return VariationKind::l2;
    if (kind == "isotropic") return VariationKind::isotropic;
    throw Error("the kind of total variation is '" + kind + "'; allowed are l1, l2, isotropic");
}

class TotalVariationCpu : public Kernel {
  public:
    explicit TotalVariationCpu(const Making& making) : element_(making.element), attributes_(making.info) {}

    void compute(Ort::KernelContext& context) const override {
        const auto pictures = context.GetInput(0);
        const Shape shape = pictures_shape(pictures);
        const cpu::Pictures sizes{element_, shape[0], shape[1], shape[2], shape[3]};
        auto value = context.GetOutput(0, {shape[0]});
        auto gradient = context.GetOutput(1, shape);
        const CpuWorkspace workspace(context, cpu::variation_workspace_bytes(sizes));
        cpu::total_variation(sizes, pictures.GetTensorRawData(), attributes_.kind, attributes_.epsilon,
                             value.GetTensorMutableData<float>(), gradient.GetTensorMutableRawData(),
                             workspace.data(), threads_of(context));
    }

  private:
    Element element_;
    VariationAttributes attributes_;
};

}  // namespace

VariationAttributes::VariationAttributes(const OrtKernelInfo* info)
    : kind(kind_of(info)), epsilon(float_attribute(info, "epsilon", 1e-8f)) {
    if (kind == VariationKind::isotropic && !(std::isfinite(epsilon) && epsilon > 0))
        throw Error("epsilon is " + std::to_string(epsilon) + "; a number above 0 is wanted");
}

Shape pictures_shape(const Ort::ConstValue& pictures) {
    return shape_of(pictures, "pictures", 4, false, "N x C x H x W");
}

const Signature kTotalVariation{
    "TotalVariation",
    {Type::element},
    {Type::float32, Type::element},
    [](const Making& making) -> std::unique_ptr<Kernel> {
        return std::make_unique<TotalVariationCpu>(making);
    },
#ifdef GANTK_HAS_CUDA
    make_total_variation_cuda,
#else
    nullptr,
#endif
    [](Ort::ShapeInferContext& context, Ort::ShapeInferContext::Shape (&shapes)[2]) {
        const auto& pictures = context.GetInputShape(0);
        if (pictures.size() != 4) return;
        shapes[0] = {pictures[0]};
        shapes[1] = pictures;
    }};

}  // namespace gantk::onnxruntime

// SPDX-License-Identifier: Apache-2.0
// TotalVariation <kind, epsilon> (pictures T[N, C, H, W]) => (value float32[N], gradient T[N, C, H, W])
#include <algorithm>

#include <gantk/kernels/variation_plan.hpp>

#include "plugin.hpp"

namespace gantk::tensorrt {
namespace {

using kernels::VariationKind;

kernels::Pictures laid_out(const PluginTensorDesc& tensor, const void* data) {
    const Dims& dims = tensor.dims;
    if (dims.nbDims != 4)
        throw driver::Error("pictures have " + std::to_string(dims.nbDims) +
                            " axes; N x C x H x W is wanted");
    return {element_of(tensor.type),
            {dims.d[0], dims.d[1], dims.d[2], dims.d[3]},
            {dims.d[1] * dims.d[2] * dims.d[3], dims.d[2] * dims.d[3], dims.d[3], 1},
            driver::alignment_of(data)};
}

class TotalVariation : public Plugin {
  public:
    explicit TotalVariation(const Attributes& given) : Plugin(given) {
        if (given.kind == "l1")
            kind_ = VariationKind::l1;
        else if (given.kind == "l2")
            kind_ = VariationKind::l2;
        else if (given.kind == "isotropic")
            kind_ = VariationKind::isotropic;
        else
            throw driver::Error("the kind of total variation is '" + given.kind +
                                "'; allowed are l1, l2, isotropic");
    }

    const char* name() const override { return "TotalVariation"; }
    std::vector<nvinfer1::PluginField> fields() const override {
        const std::string& kind = attributes().kind;
        return {
            {"kind", kind.data(), nvinfer1::PluginFieldType::kCHAR, static_cast<std::int32_t>(kind.size())},
            {"epsilon", &attributes().epsilon, nvinfer1::PluginFieldType::kFLOAT32, 1}};
    }
    int inputs() const override { return 1; }
    int outputs() const override { return 2; }
    bool is_features(int position) const override { return position != 1; }
    std::unique_ptr<Plugin> copy() const override { return std::make_unique<TotalVariation>(*this); }

    void shape(int output, const DimsExprs* inputs, nvinfer1::IExprBuilder&,
               DimsExprs& result) const override {
        result = inputs[0];
        if (output == 0) result.nbDims = 1;
    }

    Work plan(const PluginTensorDesc* inputs, const void* const* from, void* const* into, void* workspace,
              const Device& device) const override {
        using driver::address_of;
        const kernels::Pictures gradient = laid_out(inputs[0], into[1]);
        const kernels::Pictures pictures = laid_out(inputs[0], from[0]);
        const auto plan_with = [&](const kernels::Pictures* wanted) {
            return kernels::plan_variation(pictures, kind_, attributes().epsilon, device, wanted);
        };
        const auto plan = plan_with(into[1] != nullptr ? &gradient : nullptr);
        std::int64_t bytes = plan.workspace_bytes;
        // Before a run the gradient may be wanted or not.
        if (from[0] == nullptr) bytes = std::max(bytes, plan_with(&gradient).workspace_bytes);
        return {bytes, plan.launches(address_of(from[0]), address_of(into[0]), address_of(into[1]),
                                     address_of(workspace), 0)};
    }

  private:
    VariationKind kind_ = VariationKind::l1;
};

}  // namespace

std::unique_ptr<Plugin> make_total_variation(const Attributes& attributes) {
    return std::make_unique<TotalVariation>(attributes);
}

}  // namespace gantk::tensorrt

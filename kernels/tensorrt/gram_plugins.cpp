// SPDX-License-Identifier: Apache-2.0
// GramMatrix <scale> (features T[N, C, ...]) => (gram float32[N, C, C])
// GramMatrixGrad <scale> (gradient float32[N, C, C], features T[N, C, ...]) => (features_gradient T[N, C,
// ...])
#include <gantk/kernels/gram_gradient_plan.hpp>
#include <gantk/kernels/gram_plan.hpp>

#include "plugin.hpp"

namespace gantk::tensorrt {
namespace {

using kernels::Precision;

kernels::Features laid_out(const PluginTensorDesc& tensor, const void* data) {
    const Dims& dims = tensor.dims;
    if (dims.nbDims < 3)
        throw driver::Error("features have " + std::to_string(dims.nbDims) + " axes; at least 3 are wanted");
    kernels::Features features;
    features.element = element_of(tensor.type);
    features.pictures = dims.d[0];
    features.channels = dims.d[1];
    features.places = 1;
    for (int axis = 2; axis < dims.nbDims; ++axis) features.places *= dims.d[axis];
    features.batch_stride = features.channels * features.places;
    features.channel_stride = features.places;
    features.place_stride = 1;
    features.alignment =
        driver::alignment_of(data);  // That of null is the best, as of TensorRT's own tensors.
    return features;
}

class GramPlugin : public Plugin {
  public:
    using Plugin::Plugin;
    std::vector<nvinfer1::PluginField> fields() const override {
        return {{"scale", &attributes().scale, nvinfer1::PluginFieldType::kFLOAT32, 1}};
    }
    int outputs() const override { return 1; }
};

class GramMatrix : public GramPlugin {
  public:
    using GramPlugin::GramPlugin;
    const char* name() const override { return "GramMatrix"; }
    int inputs() const override { return 1; }
    bool is_features(int position) const override { return position == 0; }
    std::unique_ptr<Plugin> copy() const override { return std::make_unique<GramMatrix>(*this); }

    void shape(int, const DimsExprs* inputs, nvinfer1::IExprBuilder&, DimsExprs& result) const override {
        result.nbDims = 3;
        result.d[0] = inputs[0].d[0];
        result.d[1] = result.d[2] = inputs[0].d[1];
    }

    Work plan(const PluginTensorDesc* inputs, const void* const* from, void* const* into, void* workspace,
              const Device& device) const override {
        kernels::GramLayerData layer;
        layer.features = from[0];
        layer.gram = static_cast<float*>(into[0]);
        layer.scale = attributes().scale;
        const auto plan = kernels::plan_gram({laid_out(inputs[0], from[0])}, device, Precision::exact);
        return {plan.workspace_bytes, plan.launches({layer}, workspace)};
    }
};

class GramMatrixGrad : public GramPlugin {
  public:
    using GramPlugin::GramPlugin;
    const char* name() const override { return "GramMatrixGrad"; }
    int inputs() const override { return 2; }
    bool is_features(int position) const override { return position > 0; }
    std::unique_ptr<Plugin> copy() const override { return std::make_unique<GramMatrixGrad>(*this); }

    void shape(int, const DimsExprs* inputs, nvinfer1::IExprBuilder&, DimsExprs& result) const override {
        result = inputs[1];
    }

    Work plan(const PluginTensorDesc* inputs, const void* const* from, void* const* into, void* workspace,
              const Device& device) const override {
        const Dims &sums = inputs[0].dims, &features = inputs[1].dims;
        if (sums.nbDims != 3 || sums.d[0] != features.d[0] || sums.d[1] != features.d[1] ||
            sums.d[2] != features.d[1])
            throw driver::Error("the gradient is not N x C x C of its features N x C x ...");
        kernels::GradientLayerData layer;
        layer.gradient = static_cast<const float*>(from[0]);
        layer.features = from[1];
        layer.result = into[0];
        layer.scale = attributes().scale;
        const auto plan = kernels::plan_gram_gradient({laid_out(inputs[1], from[1])}, device,
                                                      Precision::exact, {laid_out(inputs[1], into[0])});
        return {plan.workspace_bytes, plan.launches({layer}, workspace)};
    }
};

}  // namespace

std::unique_ptr<Plugin> make_gram_matrix(const Attributes& attributes) {
    return std::make_unique<GramMatrix>(attributes);
}

std::unique_ptr<Plugin> make_gram_matrix_grad(const Attributes& attributes) {
    return std::make_unique<GramMatrixGrad>(attributes);
}

}  // namespace gantk::tensorrt

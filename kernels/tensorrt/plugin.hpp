// SPDX-License-Identifier: Apache-2.0
// What the plugins share: TensorRT's four interfaces of a plugin in one class, for operations that are
// planned by shape and launched through the driver. Nothing is linked but TensorRT's headers.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <NvInfer.h>

#include "../driver/driver.hpp"

namespace gantk::tensorrt {

using kernels::Device;
using kernels::Element;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginTensorDesc;

constexpr const char *kNamespace = "gantk", *kVersion = "1";

// What a node says, each with its default; a plugin looks at those of its own.
struct Attributes {
    float scale = 0;
    std::string kind = "l1";
    float epsilon = 1e-8f;
    // In an engine, of each of its profiles: the bytes of a workspace, and the sizes of features up to which it is so
    // large. One after the other, each as long as features have axes and one more.
    std::vector<std::int64_t> workspaces;
};

// Plans, for one shape, how much workspace is wanted and what is launched.
struct Work {
    std::int64_t workspace_bytes = 0;
    std::vector<kernels::Launch> launches;
};

class Plugin : public nvinfer1::IPluginV3,
               public nvinfer1::IPluginV3OneCore,
               public nvinfer1::IPluginV3OneBuild,
               public nvinfer1::IPluginV3OneRuntime {
  public:
    explicit Plugin(Attributes attributes) : attributes_(std::move(attributes)) {}

    // What an operation says of itself. Inputs come before outputs wherever both are numbered together.
    virtual const char* name() const = 0;
    virtual std::vector<nvinfer1::PluginField> fields() const = 0;
    virtual int inputs() const = 0;
    virtual int outputs() const = 0;
    virtual bool is_features(int position) const = 0;  // Else it is float32.
    virtual void shape(int output, const DimsExprs* inputs, nvinfer1::IExprBuilder& expressions,
                       DimsExprs& result) const = 0;
    // All pointers are null where only the size of the workspace is wanted.
    virtual Work plan(const PluginTensorDesc* inputs, const void* const* from, void* const* into,
                      void* workspace, const Device& device) const = 0;
    virtual std::unique_ptr<Plugin> copy() const = 0;

    // nvinfer1::IPluginV3
    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept final;
    nvinfer1::IPluginV3* clone() noexcept final;

    // nvinfer1::IPluginV3OneCore
    const char* getPluginName() const noexcept final { return name(); }
    const char* getPluginVersion() const noexcept final { return kVersion; }
    const char* getPluginNamespace() const noexcept final { return kNamespace; }

    // nvinfer1::IPluginV3OneBuild
    std::int32_t getNbOutputs() const noexcept final { return outputs(); }
    std::int32_t getOutputDataTypes(DataType* types, std::int32_t count, const DataType* inputs,
                                    std::int32_t) const noexcept final;
    std::int32_t getOutputShapes(const DimsExprs* inputs, std::int32_t, const DimsExprs*, std::int32_t,
                                 DimsExprs* results, std::int32_t count,
                                 nvinfer1::IExprBuilder& expressions) noexcept final;
    bool supportsFormatCombination(std::int32_t position, const DynamicPluginTensorDesc* tensors,
                                   std::int32_t, std::int32_t) noexcept final;
    std::int32_t configurePlugin(const DynamicPluginTensorDesc* inputs, std::int32_t count,
                                 const DynamicPluginTensorDesc*, std::int32_t) noexcept final;
    std::size_t getWorkspaceSize(const DynamicPluginTensorDesc* inputs, std::int32_t count,
                                 const DynamicPluginTensorDesc*, std::int32_t) const noexcept final;

    // nvinfer1::IPluginV3OneRuntime
    std::int32_t onShapeChange(const PluginTensorDesc*, std::int32_t, const PluginTensorDesc*,
                               std::int32_t) noexcept final {
        return 0;
    }
    std::int32_t enqueue(const PluginTensorDesc* inputs, const PluginTensorDesc*, const void* const* from,
                         void* const* into, void* workspace, cudaStream_t stream) noexcept final;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext*) noexcept final { return clone(); }
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept final;

  protected:
    int features_input() const;
    const Attributes& attributes() const { return attributes_; }

  private:
    std::int64_t measured(const DynamicPluginTensorDesc* inputs, int count) const;
    std::int64_t given_bytes(const Dims& shape) const;

    Attributes attributes_;
    std::vector<nvinfer1::PluginField> kept_;
    nvinfer1::PluginFieldCollection collection_{};
};

// Throws driver::Error for a type that no kernel takes.
Element element_of(DataType type);

// Tells TensorRT's logger, where the application has one.
void log_error(const char* plugin, const char* text) noexcept;

std::unique_ptr<Plugin> make_gram_matrix(const Attributes& attributes);
std::unique_ptr<Plugin> make_gram_matrix_grad(const Attributes& attributes);
std::unique_ptr<Plugin> make_total_variation(const Attributes& attributes);

}  // namespace gantk::tensorrt

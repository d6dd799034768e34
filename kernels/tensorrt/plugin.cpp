// SPDX-License-Identifier: Apache-2.0
#include "plugin.hpp"

#include <algorithm>

namespace gantk::tensorrt {
namespace {

using nvinfer1::PluginCapabilityType;

// Runs `function`; what it throws becomes a line in TensorRT's log, and a status of 1.
template <typename Function>
std::int32_t guarded(const Plugin& plugin, const Function& function) noexcept {
    try {
        function();
        return 0;
    } catch (const std::exception& error) {
        log_error(plugin.name(), error.what());
        return 1;
    }
}

}  // namespace

Element element_of(DataType type) {
    switch (type) {
        case DataType::kFLOAT:
            return Element::float32;
        case DataType::kHALF:
            return Element::float16;
        case DataType::kBF16:
            return Element::bfloat16;
        default:
            throw driver::Error("a tensor is of type " + std::to_string(static_cast<int>(type)) +
                                "; float32, float16 and bfloat16 are allowed");
    }
}

int Plugin::features_input() const {
    int position = 0;
    while (!is_features(position)) ++position;
    return position;
}

nvinfer1::IPluginCapability* Plugin::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE:
            return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD:
            return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
        case PluginCapabilityType::kRUNTIME:
            return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* Plugin::clone() noexcept {
    std::unique_ptr<Plugin> made;
    guarded(*this, [&] { made = copy(); });
    return made.release();
}

std::int32_t Plugin::getOutputDataTypes(DataType* types, std::int32_t count, const DataType* given,
                                        std::int32_t) const noexcept {
    for (int output = 0; output < count; ++output)
        types[output] = is_features(inputs() + output) ? given[features_input()] : DataType::kFLOAT;
    return 0;
}

std::int32_t Plugin::getOutputShapes(const DimsExprs* given, std::int32_t, const DimsExprs*, std::int32_t,
                                     DimsExprs* results, std::int32_t count,
                                     nvinfer1::IExprBuilder& expressions) noexcept {
    return guarded(*this, [&] {
        for (int output = 0; output < count; ++output) shape(output, given, expressions, results[output]);
    });
}

bool Plugin::supportsFormatCombination(std::int32_t position, const DynamicPluginTensorDesc* tensors,
                                       std::int32_t, std::int32_t) noexcept {
    const PluginTensorDesc& tensor = tensors[position].desc;
    if (tensor.format != nvinfer1::TensorFormat::kLINEAR) return false;
    if (!is_features(position)) return tensor.type == DataType::kFLOAT;
    if (position > features_input()) return tensor.type == tensors[features_input()].desc.type;
    return tensor.type == DataType::kFLOAT || tensor.type == DataType::kHALF ||
           tensor.type == DataType::kBF16;
}

// The most of a workspace that the smallest, the usual and the largest shape want.
std::int64_t Plugin::measured(const DynamicPluginTensorDesc* given, int count) const {
    const std::vector<const void*> from(static_cast<std::size_t>(inputs()), nullptr);
    const std::vector<void*> into(static_cast<std::size_t>(outputs()), nullptr);
    std::int64_t bytes = 0;
    for (const auto which :
         {&DynamicPluginTensorDesc::min, &DynamicPluginTensorDesc::opt, &DynamicPluginTensorDesc::max}) {
        std::vector<PluginTensorDesc> sized;
        for (int input = 0; input < count; ++input) {
            sized.push_back(given[input].desc);
            sized.back().dims = given[input].*which;
        }
        const Work work = plan(sized.data(), from.data(), into.data(), nullptr, driver::current_device());
        bytes = std::max(bytes, work.workspace_bytes);
    }
    return bytes;
}

std::int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* given, std::int32_t count,
                                     const DynamicPluginTensorDesc*, std::int32_t) noexcept {
    return guarded(*this, [&] { attributes_.workspace_bytes = measured(given, count); });
}

std::size_t Plugin::getWorkspaceSize(const DynamicPluginTensorDesc* given, std::int32_t count,
                                     const DynamicPluginTensorDesc*, std::int32_t) const noexcept {
    std::int64_t bytes = 0;
    guarded(*this, [&] { bytes = measured(given, count); });
    return static_cast<std::size_t>(bytes);
}

std::int32_t Plugin::enqueue(const PluginTensorDesc* given, const PluginTensorDesc*, const void* const* from,
                             void* const* into, void* workspace, cudaStream_t stream) noexcept {
    return guarded(*this, [&] {
        // A shape between those that were measured may want more; with fewer multiprocessors to occupy a plan
        // cuts the work into fewer parts.
        Device device = driver::current_device();
        Work work = plan(given, from, into, workspace, device);
        while (work.workspace_bytes > attributes_.workspace_bytes && device.multiprocessors > 1) {
            device.multiprocessors /= 2;
            work = plan(given, from, into, workspace, device);
        }
        if (work.workspace_bytes > attributes_.workspace_bytes)
            throw driver::Error("a workspace of " + std::to_string(work.workspace_bytes) +
                                " bytes is wanted; " + std::to_string(attributes_.workspace_bytes) +
                                " were found when the engine was built");
        driver::launch(work.launches, reinterpret_cast<CUstream>(stream));
    });
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
    const std::int32_t failed = guarded(*this, [&] {
        kept_ = fields();
        kept_.emplace_back("workspace_bytes", &attributes_.workspace_bytes, nvinfer1::PluginFieldType::kINT64,
                           1);
        collection_ = {static_cast<std::int32_t>(kept_.size()), kept_.data()};
    });
    return failed ? nullptr : &collection_;
}

}  // namespace gantk::tensorrt

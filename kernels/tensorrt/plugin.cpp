// SPDX-License-Identifier: Apache-2.0
#include "plugin.hpp"

#include <algorithm>
#include <cmath>

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

constexpr int kSteps = 8;

// From the one to the other in as many steps of like ratios.
std::int64_t between(std::int64_t low, std::int64_t high, int step) {
    const double ratio = static_cast<double>(high) / static_cast<double>(std::max<std::int64_t>(low, 1));
    const double made = static_cast<double>(low) * std::pow(ratio, static_cast<double>(step) / kSteps);
    return std::clamp(static_cast<std::int64_t>(std::llround(made)), low, high);
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

// The most of a workspace that shapes of a profile want: many plans between the smallest and the largest want more than
// either.
std::int64_t Plugin::measured(const DynamicPluginTensorDesc* given, int count) const {
    const std::vector<const void*> from(static_cast<std::size_t>(inputs()), nullptr);
    const std::vector<void*> into(static_cast<std::size_t>(outputs()), nullptr);
    const Device device = driver::current_device();
    std::int64_t bytes = 0;
    const auto measure = [&](const auto& dims_of) {
        std::vector<PluginTensorDesc> sized;
        for (int input = 0; input < count; ++input) {
            sized.push_back(given[input].desc);
            sized.back().dims = dims_of(given[input]);
        }
        bytes = std::max(bytes,
                         plan(sized.data(), from.data(), into.data(), nullptr, device).workspace_bytes);
    };
    measure([](const DynamicPluginTensorDesc& input) { return input.opt; });
    for (int batch = 0; batch <= kSteps; ++batch)
        for (int side = 0; side <= kSteps; ++side)
            measure([&](const DynamicPluginTensorDesc& input) {
                Dims dims = input.min;
                for (int axis = 0; axis < dims.nbDims; ++axis)
                    dims.d[axis] = between(input.min.d[axis], input.max.d[axis], axis ? side : batch);
                return dims;
            });
    return bytes;
}

// Called for each profile, of whose workspace alone its own runs may use.
std::int32_t Plugin::configurePlugin(const DynamicPluginTensorDesc* given, std::int32_t count,
                                     const DynamicPluginTensorDesc*, std::int32_t) noexcept {
    return guarded(*this, [&] {
        std::vector<std::int64_t>& all = attributes_.workspaces;
        const Dims& most = given[features_input()].max;
        all.push_back(measured(given, count));
        all.insert(all.end(), most.d, most.d + most.nbDims);
    });
}

// What a workspace holds for certain: of the profiles that serve a shape the least.
std::int64_t Plugin::given_bytes(const Dims& shape) const {
    const std::vector<std::int64_t>& all = attributes_.workspaces;
    const auto length = static_cast<std::size_t>(shape.nbDims) + 1;
    if (all.empty() || all.size() % length != 0) throw driver::Error("the engine does not say its workspaces");
    std::int64_t bytes = -1;
    for (std::size_t at = 0; at < all.size(); at += length) {
        bool serves = true;
        for (std::size_t axis = 0; axis + 1 < length; ++axis)
            serves = serves && shape.d[axis] <= all[at + 1 + axis];
        if (serves && (bytes < 0 || all[at] < bytes)) bytes = all[at];
    }
    if (bytes < 0) throw driver::Error("the shape is larger than what the engine was built for");
    return bytes;
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
        const std::int64_t bytes = given_bytes(given[features_input()].dims);
        Work work = plan(given, from, into, workspace, device);
        while (work.workspace_bytes > bytes && device.multiprocessors > 1) {
            device.multiprocessors /= 2;
            work = plan(given, from, into, workspace, device);
        }
        if (work.workspace_bytes > bytes)
            throw driver::Error("a workspace of " + std::to_string(work.workspace_bytes) +
                                " bytes is wanted; " + std::to_string(bytes) +
                                " were found when the engine was built");
        driver::launch(work.launches, reinterpret_cast<CUstream>(stream));
    });
}

const nvinfer1::PluginFieldCollection* Plugin::getFieldsToSerialize() noexcept {
    const std::int32_t failed = guarded(*this, [&] {
        kept_ = fields();
        kept_.emplace_back("workspaces", attributes_.workspaces.data(), nvinfer1::PluginFieldType::kINT64,
                           static_cast<std::int32_t>(attributes_.workspaces.size()));
        collection_ = {static_cast<std::int32_t>(kept_.size()), kept_.data()};
    });
    return failed ? nullptr : &collection_;
}

}  // namespace gantk::tensorrt

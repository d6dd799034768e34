// SPDX-License-Identifier: Apache-2.0
// What TensorRT looks for in a library of plugins: their creators, and where its logger is left.
#include <mutex>

#include "plugin.hpp"

namespace gantk::tensorrt {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

struct Logger {
    std::mutex mutex;
    nvinfer1::ILoggerFinder* finder = nullptr;
};

Logger& logger() {
    static Logger one;
    return one;
}

// Fields of other names belong to TensorRT's parser.
Attributes attributes_of(const nvinfer1::PluginFieldCollection& given) {
    Attributes attributes;
    for (int index = 0; index < given.nbFields; ++index) {
        const PluginField& field = given.fields[index];
        const std::string name = field.name;
        const auto check = [&](PluginFieldType wanted) {
            if (field.type != wanted || field.length < 1)
                throw driver::Error("`" + name + "` is of another type");
        };
        if (name == "scale" || name == "epsilon") {
            check(PluginFieldType::kFLOAT32);
            (name == "scale" ? attributes.scale : attributes.epsilon) =
                *static_cast<const float*>(field.data);
        } else if (name == "kind") {
            check(PluginFieldType::kCHAR);
            attributes.kind.assign(static_cast<const char*>(field.data),
                                   static_cast<std::size_t>(field.length));
            attributes.kind = attributes.kind.c_str();  // Some parsers count a terminator.
        } else if (name == "workspaces") {
            check(PluginFieldType::kINT64);
            const auto* const first = static_cast<const std::int64_t*>(field.data);
            attributes.workspaces.assign(first, first + field.length);
        }
    }
    return attributes;
}

class Creator : public nvinfer1::IPluginCreatorV3One {
  public:
    using Make = std::unique_ptr<Plugin> (*)(const Attributes&);

    Creator(const char* name, Make make, std::vector<PluginField> fields)
        : name_(name), make_(make), fields_(std::move(fields)) {
        collection_ = {static_cast<std::int32_t>(fields_.size()), fields_.data()};
    }

    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase) noexcept override {
        try {
            return make_(attributes_of(*fields)).release();
        } catch (const std::exception& error) {
            log_error(name_, error.what());
            return nullptr;
        }
    }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &collection_; }
    const char* getPluginName() const noexcept override { return name_; }
    const char* getPluginVersion() const noexcept override { return kVersion; }
    const char* getPluginNamespace() const noexcept override { return kNamespace; }

  private:
    const char* name_;
    Make make_;
    std::vector<PluginField> fields_;
    nvinfer1::PluginFieldCollection collection_{};
};

}  // namespace

void log_error(const char* plugin, const char* text) noexcept {
    const std::lock_guard lock(logger().mutex);
    nvinfer1::ILogger* const found = logger().finder ? logger().finder->findLogger() : nullptr;
    if (found)
        found->log(nvinfer1::ILogger::Severity::kERROR,
                   (std::string("gantk::") + plugin + ": " + text).c_str());
}

}  // namespace gantk::tensorrt

extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    std::int32_t& count) {
    using namespace gantk::tensorrt;
    static Creator gram("GramMatrix", make_gram_matrix, {{"scale", nullptr, PluginFieldType::kFLOAT32, 1}});
    static Creator grad("GramMatrixGrad", make_gram_matrix_grad,
                        {{"scale", nullptr, PluginFieldType::kFLOAT32, 1}});
    static Creator variation(
        "TotalVariation", make_total_variation,
        {{"kind", nullptr, PluginFieldType::kCHAR, 1}, {"epsilon", nullptr, PluginFieldType::kFLOAT32, 1}});
    static nvinfer1::IPluginCreatorInterface* const all[] = {&gram, &grad, &variation};
    count = 3;
    return all;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
    const std::lock_guard lock(gantk::tensorrt::logger().mutex);
    // The first stays, as in NVIDIA's own libraries: every runtime of a process hands one over.
    if (gantk::tensorrt::logger().finder == nullptr) gantk::tensorrt::logger().finder = finder;
}

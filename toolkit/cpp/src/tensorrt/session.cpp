// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/session.hpp"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <utility>

#include "cuda.hpp"
#include "gantk/error.hpp"
#include "profiles.hpp"
#include "tensorrt/kernel_cache.hpp"
#include "tensorrt/lanes.hpp"
#include "tensorrt/library.hpp"

namespace gantk::tensorrt {
namespace {

using nvinfer1::DataType;

std::string name_of_type(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return "float32";
    case DataType::kHALF: return "float16";
    case DataType::kBF16: return "bfloat16";
    case DataType::kUINT8: return "uint8";
    case DataType::kINT8: return "int8";
    case DataType::kINT32: return "int32";
    case DataType::kINT64: return "int64";
    case DataType::kBOOL: return "bool";
    default: return "type " + std::to_string(static_cast<int>(type));
  }
}

std::vector<FoundTensor> tensors_of(const nvinfer1::ICudaEngine& engine) {
  std::vector<FoundTensor> found;
  for (std::int32_t i = 0; i < engine.getNbIOTensors(); ++i) {
    const char* name = engine.getIOTensorName(i);
    found.push_back({name, name_of_type(engine.getTensorDataType(name)),
                     engine.getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT,
                     engine.getTensorLocation(name) == nvinfer1::TensorLocation::kDEVICE});
  }
  return found;
}

// Libraries of plugins were loaded with the engine's file. Some have registered themselves by that; those that show
// their creators leave it to the runtime. Where it refuses one, the engine that lacks the plugin says so.
void register_plugins(nvinfer1::IRuntime& runtime, const Engine& engine) {
  for (const std::string& library : engine.plugins) {
    void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_NOLOAD);
    link_map* loaded = nullptr;
    if (handle == nullptr || ::dlsym(handle, "getCreators") == nullptr) continue;
    if (::dlinfo(handle, RTLD_DI_LINKMAP, &loaded) == 0) runtime.getPluginRegistry().loadLibrary(loaded->l_name);
  }
}

// A run that has a lane of its own, as one graph where the engine can be captured.
class BoundRun : public Binding {
 public:
  BoundRun(Lanes& lanes, std::span<const TensorView> inputs, std::span<Slot> slots)
      : lane_(lanes), inputs_(inputs), slots_(slots) {
    lane_->run(inputs_, slots_);  // What a context puts off until its first run would end the capture.
    graph_ = lane_->capture(inputs_, slots_);
  }

  ~BoundRun() override {
    try {
      const cuda::Current current;
      lane_->settle();
      graph_.reset();
    } catch (const Error&) {
      // As in ~Lane.
    }
  }

  void run() override {
    const cuda::Current current;
    if (graph_ == nullptr) lane_->run(inputs_, slots_);
    else lane_->launch(graph_, inputs_, slots_);
  }

 private:
  Lanes::Loan lane_;
  std::span<const TensorView> inputs_;
  std::span<Slot> slots_;
  cuda::Graph graph_{nullptr, nullptr};
};

class EngineSession : public Session {
 public:
  EngineSession(Model model, const Options& options);
  ~EngineSession() override;
  void run(std::span<const TensorView> inputs, std::span<Slot> slots) const override;
  std::unique_ptr<Binding> bind(std::span<const TensorView> inputs, std::span<Slot> slots) const override;
  std::optional<MemoryBytes> memory_bytes() const noexcept override;

 private:
  void load();

  Model model_;
  // The later goes first: contexts before their engine, and that before its runtime.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::optional<KernelCache> kernels_;
  mutable std::optional<Lanes> lanes_;
};

EngineSession::EngineSession(Model model, const Options& options) : model_(std::move(model)) {
  const cuda::Current current;
  try {
    load();
    kernels_.emplace(*engine_, model_.engine->file.sha256);
    lanes_.emplace(model_, *engine_, *kernels_, options.stream);
  } catch (...) {
    // While there is a current context; members would go after it.
    kernels_.reset(), engine_.reset(), runtime_.reset();
    throw;
  }
}

EngineSession::~EngineSession() {
  try {
    const cuda::Current current;
    kernels_->save();
    lanes_.reset(), kernels_.reset(), engine_.reset(), runtime_.reset();
  } catch (const Error&) {
    // As in ~Lane.
  }
}

void EngineSession::load() {
  const std::string hint = "build it again on this machine: gantk export BUNDLE --to " + std::string(product);
  listen();
  runtime_ = create_runtime();
  if (runtime_ == nullptr) fail(model_.where, "be loaded", hint);
#ifndef TRT_MAJOR_RTX
  const auto& built = model_.engine->options;
  if (std::find(built.begin(), built.end(), "version-compatible") != built.end()) {
    runtime_->setEngineHostCodeAllowed(true);  // It carries its own lean runtime.
  }
#endif
  register_plugins(*runtime_, *model_.engine);
  engine_.reset(runtime_->deserializeCudaEngine(model_.bytes.view().data(), model_.bytes.size()));
  if (engine_ == nullptr) fail(model_.where, "be loaded", hint);
  model_.bytes = {};  // The library has its own copy.
  check_engine(model_, tensors_of(*engine_), static_cast<std::size_t>(engine_->getNbOptimizationProfiles()));
}

void EngineSession::run(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  const cuda::Current current;
  const Lanes::Loan lane(*lanes_);
  lane->run(inputs, slots);
}

std::unique_ptr<Binding> EngineSession::bind(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  const cuda::Current current;
  return std::make_unique<BoundRun>(*lanes_, inputs, slots);
}

std::optional<MemoryBytes> EngineSession::memory_bytes() const noexcept {
  MemoryBytes held = lanes_->memory_bytes();
  held.engine = static_cast<std::size_t>(model_.engine->file.size_bytes);
  return held;
}

}  // namespace

std::unique_ptr<Session> open_session(Model model, const Options& options) {
  return std::make_unique<EngineSession>(std::move(model), options);
}

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/session.hpp"

#include <algorithm>
#include <cstring>
#include <mutex>

#include "gantk/error.hpp"
#include "profiles.hpp"
#include "tensorrt/cuda.hpp"
#include "tensorrt/library.hpp"
#include "text.hpp"

namespace gantk::tensorrt {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using Allocation = nvinfer1::ExecutionContextAllocationStrategy;

// Engines of TensorRT for RTX can be captured into CUDA graphs, and want to be given their memory for it.
#ifdef TRT_MAJOR_RTX
constexpr Allocation allocation = Allocation::kUSER_MANAGED;
#else
constexpr Allocation allocation = Allocation::kSTATIC;
#endif

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

[[noreturn]] void fail(const std::string& where, const std::string& doing, const std::string& hint = {}) {
  throw Error("`" + where + "` cannot " + doing + ": " + said(), where, hint);
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

// Gives an array's GPU memory back, from whatever thread; where the driver is gone, so is the memory.
void release(void* memory) noexcept {
  try {
    const Current current;
    free(reinterpret_cast<CUdeviceptr>(memory));
  } catch (const Error&) {
  }
}

class EngineSession : public Session {
 public:
  EngineSession(Model model, const Options& options);
  ~EngineSession() override;
  void run(std::span<const TensorView> inputs, std::span<Slot> slots) const override;

 private:
  void load();
  void bind(std::span<const TensorView> inputs) const;
  void give_memory(std::span<const TensorView> inputs) const;
  bool feed(std::span<const TensorView> inputs) const;
  bool aim(std::span<Slot> slots, bool on_gpu) const;
  void deliver(std::span<Slot> slots) const;
  Shape output_shape(const TensorSpec& spec) const;
  void give(const TensorSpec& spec, const void* address) const;
  Buffer& buffer(const TensorSpec& spec, std::size_t index, const Shape& shape) const;

  Model model_;
  std::optional<Stream> stream_;
  // What a run holds between its layers, where the context is given it, and the shapes that it was last given it for.
  mutable std::unique_ptr<void, void (*)(void*) noexcept> memory_{nullptr, release};
  mutable std::size_t memory_size_ = 0;
  mutable std::vector<Shape> given_for_;
  // The later goes first: the context before its engine, and that before its runtime.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  mutable std::unique_ptr<Buffer[]> buffers_;  // of the inputs, then of the outputs
  mutable std::int32_t profile_ = 0;
  mutable std::mutex mutex_;
};

EngineSession::EngineSession(Model model, const Options& options) : model_(std::move(model)) {
  const Current current;
  try {
    stream_.emplace(options.stream);
    load();
    buffers_ = std::make_unique<Buffer[]>(model_.interface.inputs.size() + model_.interface.outputs.size());
  } catch (...) {
    // While there is a current context; members would go after it.
    context_.reset(), engine_.reset(), runtime_.reset(), stream_.reset();
    throw;
  }
}

EngineSession::~EngineSession() {
  try {
    const Current current;
    synchronize(*stream_);
    buffers_.reset(), context_.reset(), memory_.reset(), engine_.reset(), runtime_.reset(), stream_.reset();
  } catch (const Error&) {
    // A run failed so badly that CUDA takes no more calls, or the process ends: members go as they can.
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
  engine_.reset(runtime_->deserializeCudaEngine(model_.bytes.view().data(), model_.bytes.size()));
  if (engine_ == nullptr) fail(model_.where, "be loaded", hint);
  model_.bytes = {};  // The library has its own copy.
  check_engine(model_, tensors_of(*engine_), static_cast<std::size_t>(engine_->getNbOptimizationProfiles()));
  context_.reset(engine_->createExecutionContext(allocation));
  if (context_ == nullptr) fail(model_.where, "make a context", "end what else uses the GPU");
}

void EngineSession::run(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  const std::lock_guard lock(mutex_);
  const Current current;
  listen();
  bind(inputs);
  const bool feeds_host = feed(inputs);
  const bool wants_host = aim(slots, !inputs.empty() && inputs.front().device == Device::cuda);
  if (!context_->enqueueV3(*stream_)) fail(model_.where, "run");
  if (wants_host) deliver(slots);
  else if (feeds_host || !stream_->is_callers()) synchronize(*stream_);
}

// Tells the context which shapes come.
void EngineSession::bind(std::span<const TensorView> inputs) const {
  const auto profile = static_cast<std::int32_t>(choose_profile(model_, inputs));
  if (profile != profile_) {
    if (!context_->setOptimizationProfileAsync(profile, *stream_)) fail(model_.where, "switch to another profile");
    synchronize(*stream_);
    profile_ = profile;
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const std::string& name = model_.interface.inputs[i].name;
    const auto sizes = inputs[i].shape.sizes();
    Dims dims{};
    dims.nbDims = static_cast<std::int32_t>(sizes.size());
    const bool fits = sizes.size() <= static_cast<std::size_t>(Dims::MAX_DIMS);
    if (fits) std::copy(sizes.begin(), sizes.end(), dims.d);
    if (!fits || !context_->setInputShape(name.c_str(), dims)) {
      fail(model_.where, "take " + name + " of shape " + inputs[i].shape.text());
    }
  }
  if (allocation == Allocation::kUSER_MANAGED) give_memory(inputs);
}

// Gives the context as much memory as the shapes want that it was told, once for shapes that come again and again.
void EngineSession::give_memory(std::span<const TensorView> inputs) const {
  const auto has_shape = [](const Shape& given, const TensorView& input) { return given == input.shape; };
  const bool known = std::equal(given_for_.begin(), given_for_.end(), inputs.begin(), inputs.end(), has_shape);
  if (known && memory_ != nullptr) return;
  given_for_.clear();
  // Where it wants none for these shapes, and for others does, it is still to be given some.
  const std::size_t wanted = std::max<std::size_t>(context_->updateDeviceMemorySizeForShapes(), 1);
  if (wanted > memory_size_) {
    synchronize(*stream_);  // A run that was queued may still use the old place.
    memory_.reset(), memory_size_ = 0;
    memory_.reset(reinterpret_cast<void*>(allocate(wanted, "a context of `" + model_.where + "`")));
    memory_size_ = wanted;
  }
  context_->setDeviceMemoryV2(memory_.get(), static_cast<std::int64_t>(memory_size_));
  for (const TensorView& input : inputs) given_for_.push_back(input.shape);
}

// Copies inputs that are in main memory to the GPU; whether there are any.
bool EngineSession::feed(std::span<const TensorView> inputs) const {
  bool any = false;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const TensorSpec& spec = model_.interface.inputs[i];
    if (inputs[i].device == Device::cuda) {
      give(spec, inputs[i].data);
      continue;
    }
    any = true;
    Buffer& place = buffer(spec, i, inputs[i].shape);
    std::memcpy(place.host(), inputs[i].data, inputs[i].size_bytes());
    copy_in(place.device(), place.host(), inputs[i].size_bytes(), *stream_);
    give(spec, reinterpret_cast<const void*>(place.device()));
  }
  return any;
}

// Says where each output goes, making fresh arrays on the GPU where they are wanted there; whether any is wanted in
// main memory. Outputs that nobody asked for need a place too.
bool EngineSession::aim(std::span<Slot> slots, bool on_gpu) const {
  bool any = false;
  const auto& outputs = model_.interface.outputs;
  for (std::size_t index = 0; index < outputs.size(); ++index) {
    const TensorSpec& spec = outputs[index];
    const Shape shape = output_shape(spec);
    const auto slot = std::find_if(slots.begin(), slots.end(), [&](const Slot& s) { return s.index == index; });
    if (slot != slots.end() && slot->memory.data != nullptr && slot->memory.shape != shape) {
      throw Error("`out` for " + repr(spec.name) + " has shape " + slot->memory.shape.text() + "; the output has " +
                  shape.text());
    }
    const bool is_fresh = slot != slots.end() && slot->memory.data == nullptr;
    if (is_fresh && on_gpu) {
      const TensorView sized{nullptr, spec.dtype, shape};
      const CUdeviceptr memory = allocate(sized.size_bytes(), repr(spec.name) + " of `" + model_.where + "`");
      slot->fresh = Tensor({reinterpret_cast<void*>(memory), spec.dtype, shape, Device::cuda}, release);
      give(spec, slot->fresh.view().data);
    } else if (slot != slots.end() && slot->memory.device == Device::cuda && !is_fresh) {
      give(spec, slot->memory.data);
    } else {
      if (is_fresh) slot->fresh = Tensor(spec.dtype, shape);
      any = any || slot != slots.end();
      give(spec, reinterpret_cast<const void*>(
                     buffer(spec, model_.interface.inputs.size() + index, shape).device()));
    }
  }
  return any;
}

// Copies outputs to main memory where they are wanted there, when the run is done.
void EngineSession::deliver(std::span<Slot> slots) const {
  const auto target = [](Slot& slot) { return slot.memory.data == nullptr ? slot.fresh.mutable_view() : slot.memory; };
  const auto place = [&](const Slot& slot) -> Buffer& {
    return buffers_[model_.interface.inputs.size() + slot.index];
  };
  for (Slot& slot : slots) {
    if (target(slot).device == Device::cuda) continue;
    copy_out(place(slot).host(), place(slot).device(), target(slot).size_bytes(), *stream_);
  }
  synchronize(*stream_);
  for (Slot& slot : slots) {
    if (target(slot).device == Device::cuda) continue;
    std::memcpy(target(slot).data, place(slot).host(), target(slot).size_bytes());
  }
}

Shape EngineSession::output_shape(const TensorSpec& spec) const {
  const Dims dims = context_->getTensorShape(spec.name.c_str());
  if (dims.nbDims >= 0 && std::all_of(dims.d, dims.d + dims.nbDims, [](auto size) { return size >= 0; })) {
    return Shape(std::span<const std::int64_t>(dims.d, static_cast<std::size_t>(dims.nbDims)));
  }
  throw Error("the size of output " + repr(spec.name) + " of `" + model_.where +
                  "` depends on the data, which gantk cannot run",
              model_.where, "backend='onnxruntime' can");
}

void EngineSession::give(const TensorSpec& spec, const void* address) const {
  // Inputs are only read, which the library's signature cannot say.
  if (context_->setTensorAddress(spec.name.c_str(), const_cast<void*>(address))) return;
  fail(model_.where, "take an address for " + spec.name);
}

Buffer& EngineSession::buffer(const TensorSpec& spec, std::size_t index, const Shape& shape) const {
  const TensorView sized{nullptr, spec.dtype, shape};
  if (!buffers_[index].holds(sized.size_bytes())) {
    synchronize(*stream_);  // A run that was queued may still use the old place.
    buffers_[index].reserve(sized.size_bytes(), repr(spec.name) + " of `" + model_.where + "`");
  }
  return buffers_[index];
}

}  // namespace

std::unique_ptr<Session> open_session(Model model, const Options& options) {
  return std::make_unique<EngineSession>(std::move(model), options);
}

}  // namespace gantk::tensorrt

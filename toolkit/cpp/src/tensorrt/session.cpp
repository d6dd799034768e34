// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/session.hpp"

#include <algorithm>
#include <mutex>
#include <utility>

#include "cuda.hpp"
#include "gantk/error.hpp"
#include "profiles.hpp"
#include "staging.hpp"
#include "tensorrt/kernel_cache.hpp"
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

constexpr std::size_t alignment = 256;  // of inputs and outputs, as setTensorAddress wants it

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

// TensorRT for RTX can say that beforehand, in releases that can tell; else a capture has to fail.
template <class Context>
bool is_capturable(Context& context, cuda::StreamHandle stream) {
  if constexpr (requires { context.isStreamCapturable(stream); }) return context.isStreamCapturable(stream);
  else return true;
}

// A context of an engine with all that its runs take. One thread at a time uses it.
class Lane {
 public:
  Lane(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  ~Lane();

  void run(std::span<const TensorView> inputs, std::span<Slot> slots);

  // Makes a graph of a run that has just been, with all that it copies, where the engine can be captured.
  void keep(std::span<const TensorView> inputs, std::span<Slot> slots);

  // The run that was kept, on what its inputs hold now.
  void run_kept(std::span<const TensorView> inputs, std::span<Slot> slots);

 private:
  void make_context(nvinfer1::ICudaEngine& engine);
  void bind(std::span<const TensorView> inputs);
  void give_memory(std::span<const TensorView> inputs);
  void place(std::span<const TensorView> inputs);
  void aim(std::span<Slot> slots, bool on_gpu);
  void enqueue(std::span<const TensorView> inputs, std::span<Slot> slots, cuda::StreamHandle stream);
  void finish(std::span<const TensorView> inputs, std::span<Slot> slots);
  Shape output_shape(const TensorSpec& spec) const;
  void give(const TensorSpec& spec, void* address);

  const Model& model_;
  KernelCache& kernels_;
  std::optional<cuda::Stream> stream_;
  // What a run holds between its layers, where the context is given it, and the shapes that it was last given it for.
  std::unique_ptr<void, void (*)(void*) noexcept> memory_{nullptr, cuda::release};
  std::size_t memory_size_ = 0;
  std::vector<Shape> given_for_;
  bool is_new_ = false;                                      // whether there was no run since
  std::unique_ptr<nvinfer1::IRuntimeConfig> configuration_;  // Lives as long as the context that is made with it.
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::optional<Staging> staging_;
  std::int32_t profile_ = 0;
  cuda::Graph graph_{nullptr, nullptr};
};

Lane::Lane(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream)
    : model_(model), kernels_(kernels), stream_(stream) {
  listen();
  make_context(engine);
  if (context_ == nullptr) fail(model_.where, "make a context", "end what else uses the GPU");
  staging_.emplace(model_.interface, model_.where, alignment);
}

Lane::~Lane() {
  try {
    const cuda::Current current;
    cuda::synchronize(*stream_);
    graph_.reset(), staging_.reset(), context_.reset(), configuration_.reset(), memory_.reset(), stream_.reset();
  } catch (const Error&) {
    // A run failed so badly that CUDA takes no more calls, or the process ends: members go as they can.
  }
}

void Lane::make_context(nvinfer1::ICudaEngine& engine) {
#ifdef TRT_MAJOR_RTX
  // A shape's own kernels are compiled before its first run: others would stay for good in a graph of it.
  configuration_.reset(engine.createRuntimeConfig());
  if (configuration_ != nullptr) {
    using Specialization = nvinfer1::DynamicShapesKernelSpecializationStrategy;
    configuration_->setExecutionContextAllocationStrategy(allocation);
    configuration_->setDynamicShapesKernelSpecializationStrategy(Specialization::kEAGER);
    kernels_.attach_to(*configuration_);
    context_.reset(engine.createExecutionContext(configuration_.get()));
    return;
  }
#endif
  context_.reset(engine.createExecutionContext(allocation));
}

void Lane::run(std::span<const TensorView> inputs, std::span<Slot> slots) {
  listen();
  bind(inputs);
  place(inputs);
  aim(slots, !inputs.empty() && inputs.front().device == Device::cuda);
  staging_->stage(inputs);
  enqueue(inputs, slots, *stream_);
  if (std::exchange(is_new_, false)) kernels_.ran(inputs);
  finish(inputs, slots);
}

void Lane::keep(std::span<const TensorView> inputs, std::span<Slot> slots) {
  cuda::synchronize(*stream_);
  // Its own stream waits for the default one.
  const cuda::Stream stream(nullptr, cuda::Stream::Kind::waits_for_none);
  if (is_capturable(*context_, stream)) graph_ = cuda::capture(stream, [&] { enqueue(inputs, slots, stream); });
}

void Lane::run_kept(std::span<const TensorView> inputs, std::span<Slot> slots) {
  if (graph_ == nullptr) return run(inputs, slots);
  staging_->stage(inputs);
  cuda::launch(graph_, *stream_);
  finish(inputs, slots);
}

// Tells the context which shapes come.
void Lane::bind(std::span<const TensorView> inputs) {
  const auto profile = static_cast<std::int32_t>(choose_profile(model_, inputs));
  if (profile != profile_) {
    if (!context_->setOptimizationProfileAsync(profile, *stream_)) fail(model_.where, "switch to another profile");
    cuda::synchronize(*stream_);
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
void Lane::give_memory(std::span<const TensorView> inputs) {
  const auto has_shape = [](const Shape& given, const TensorView& input) { return given == input.shape; };
  const bool known = std::equal(given_for_.begin(), given_for_.end(), inputs.begin(), inputs.end(), has_shape);
  if (known && memory_ != nullptr) return;
  given_for_.clear();
  // Where it wants none for these shapes, and for others does, it is still to be given some.
  const std::size_t wanted = std::max<std::size_t>(context_->updateDeviceMemorySizeForShapes(), 1);
  if (wanted > memory_size_) {
    cuda::synchronize(*stream_);  // A run that was queued may still use the old place.
    memory_.reset(), memory_size_ = 0;
    memory_.reset(reinterpret_cast<void*>(cuda::allocate(wanted, "a context of `" + model_.where + "`")));
    memory_size_ = wanted;
  }
  context_->setDeviceMemoryV2(memory_.get(), static_cast<std::int64_t>(memory_size_));
  for (const TensorView& input : inputs) given_for_.push_back(input.shape);
  is_new_ = true;
}

// Says where each input is read: where it lies, or in a buffer.
void Lane::place(std::span<const TensorView> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    give(model_.interface.inputs[i], staging_->input(i, inputs[i], *stream_));
  }
}

// Says where each output goes, making fresh arrays where they are wanted. Outputs that nobody asked for need a place
// too.
void Lane::aim(std::span<Slot> slots, bool on_gpu) {
  const auto& outputs = model_.interface.outputs;
  for (std::size_t index = 0; index < outputs.size(); ++index) {
    const TensorSpec& spec = outputs[index];
    const Shape shape = output_shape(spec);
    const auto slot = std::find_if(slots.begin(), slots.end(), [&](const Slot& s) { return s.index == index; });
    if (slot != slots.end() && slot->memory.data != nullptr && slot->memory.shape != shape) {
      throw Error("`out` for " + repr(spec.name) + " has shape " + slot->memory.shape.text() + "; the output has " +
                  shape.text());
    }
    if (slot != slots.end() && slot->memory.data == nullptr) {
      slot->fresh = on_gpu ? cuda::make_tensor(spec.dtype, shape, repr(spec.name) + " of `" + model_.where + "`")
                           : Tensor(spec.dtype, shape);
    }
    const TensorView target = slot == slots.end() ? TensorView(nullptr, spec.dtype, shape) : target_of(*slot);
    give(spec, staging_->output(index, target, *stream_));
  }
}

// Copies in, a run, copies out.
void Lane::enqueue(std::span<const TensorView> inputs, std::span<Slot> slots, cuda::StreamHandle stream) {
  staging_->copy_in(inputs, stream);
  if (!context_->enqueueV3(stream)) fail(model_.where, "run");
  staging_->copy_out(slots, stream);
}

// Waits for what was enqueued, unless all of it stays on the GPU and is in the order of the caller's stream, and
// delivers the outputs that are wanted in main memory.
void Lane::finish(std::span<const TensorView> inputs, std::span<Slot> slots) {
  if (!stream_->is_callers() || touches_main_memory(inputs, slots)) cuda::synchronize(*stream_);
  staging_->deliver(slots);
}

Shape Lane::output_shape(const TensorSpec& spec) const {
  const Dims dims = context_->getTensorShape(spec.name.c_str());
  if (dims.nbDims >= 0 && std::all_of(dims.d, dims.d + dims.nbDims, [](auto size) { return size >= 0; })) {
    return Shape(std::span<const std::int64_t>(dims.d, static_cast<std::size_t>(dims.nbDims)));
  }
  throw Error("the size of output " + repr(spec.name) + " of `" + model_.where +
                  "` depends on the data, which gantk cannot run",
              model_.where, "backend='onnxruntime' can");
}

void Lane::give(const TensorSpec& spec, void* address) {
  if (context_->setTensorAddress(spec.name.c_str(), address)) return;
  fail(model_.where, "take an address for " + spec.name);
}

// A run that has a context of its own.
class BoundRun : public Binding {
 public:
  BoundRun(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream,
           std::span<const TensorView> inputs, std::span<Slot> slots)
      : lane_(model, engine, kernels, stream), inputs_(inputs), slots_(slots) {
    lane_.run(inputs_, slots_);  // What a context puts off until its first run would end the capture.
    lane_.keep(inputs_, slots_);
  }

  void run() override {
    const cuda::Current current;
    lane_.run_kept(inputs_, slots_);
  }

 private:
  Lane lane_;
  std::span<const TensorView> inputs_;
  std::span<Slot> slots_;
};

class EngineSession : public Session {
 public:
  EngineSession(Model model, const Options& options);
  ~EngineSession() override;
  void run(std::span<const TensorView> inputs, std::span<Slot> slots) const override;
  std::unique_ptr<Binding> bind(std::span<const TensorView> inputs, std::span<Slot> slots) const override;

 private:
  void load();

  Model model_;
  void* callers_stream_;
  // The later goes first: contexts before their engine, and that before its runtime.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  mutable std::optional<KernelCache> kernels_;
  mutable std::optional<Lane> lane_;
  mutable std::mutex mutex_;
};

EngineSession::EngineSession(Model model, const Options& options)
    : model_(std::move(model)), callers_stream_(options.stream) {
  const cuda::Current current;
  try {
    load();
    kernels_.emplace(*engine_, model_.engine->file.sha256);
    lane_.emplace(model_, *engine_, *kernels_, callers_stream_);
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
    lane_.reset(), kernels_.reset(), engine_.reset(), runtime_.reset();
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
  engine_.reset(runtime_->deserializeCudaEngine(model_.bytes.view().data(), model_.bytes.size()));
  if (engine_ == nullptr) fail(model_.where, "be loaded", hint);
  model_.bytes = {};  // The library has its own copy.
  check_engine(model_, tensors_of(*engine_), static_cast<std::size_t>(engine_->getNbOptimizationProfiles()));
}

void EngineSession::run(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  const std::lock_guard lock(mutex_);
  const cuda::Current current;
  lane_->run(inputs, slots);
}

std::unique_ptr<Binding> EngineSession::bind(std::span<const TensorView> inputs, std::span<Slot> slots) const {
  const cuda::Current current;
  return std::make_unique<BoundRun>(model_, *engine_, *kernels_, callers_stream_, inputs, slots);
}

}  // namespace

std::unique_ptr<Session> open_session(Model model, const Options& options) {
  return std::make_unique<EngineSession>(std::move(model), options);
}

}  // namespace gantk::tensorrt

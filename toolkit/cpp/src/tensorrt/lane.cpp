// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/lane.hpp"

#include <algorithm>
#include <utility>

#include "gantk/error.hpp"
#include "profiles.hpp"
#include "tensorrt/library.hpp"
#include "text.hpp"

namespace gantk::tensorrt {
namespace {

using nvinfer1::Dims;
using Allocation = nvinfer1::ExecutionContextAllocationStrategy;

// What a context takes by itself is as much as the largest shapes of all profiles want. Engines of TensorRT for RTX want
// to be given theirs to be captured into a CUDA graph, too.
constexpr Allocation allocation = Allocation::kUSER_MANAGED;

constexpr std::size_t alignment = 256;  // of inputs and outputs, as setTensorAddress wants it

// TensorRT for RTX can say that beforehand, in releases that can tell; else a capture has to fail.
template <class Context>
bool is_capturable(Context& context, cuda::StreamHandle stream) {
  if constexpr (requires { context.isStreamCapturable(stream); }) return context.isStreamCapturable(stream);
  else return true;
}

}  // namespace

Lane::Lane(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream)
    : model_(model), engine_(engine), kernels_(kernels), stream_(stream) {
  end_.emplace();
  listen();
  make_context();
  if (context_ == nullptr) fail(model_.where, "make a context", "end what else uses the GPU");
  staging_.emplace(model_.interface, model_.where, alignment);
  addresses_.resize(model_.interface.inputs.size() + model_.interface.outputs.size());
}

Lane::~Lane() {
  try {
    const cuda::Current current;
    settle();
    staging_.reset(), context_.reset(), configuration_.reset(), memory_.reset(), end_.reset(), stream_.reset();
  } catch (const Error&) {
    // A run failed so badly that CUDA takes no more calls, or the process ends: members go as they can.
  }
}

void Lane::make_context() {
#ifdef TRT_MAJOR_RTX
  // A shape's own kernels are compiled before its first run: others would stay for good in a graph of it.
  configuration_.reset(engine_.createRuntimeConfig());
  if (configuration_ != nullptr) {
    using Specialization = nvinfer1::DynamicShapesKernelSpecializationStrategy;
    configuration_->setExecutionContextAllocationStrategy(allocation);
    configuration_->setDynamicShapesKernelSpecializationStrategy(Specialization::kEAGER);
    kernels_.attach_to(*configuration_);
    context_.reset(engine_.createExecutionContext(configuration_.get()));
    return;
  }
#endif
  context_.reset(engine_.createExecutionContext(allocation));
}

void Lane::run(std::span<const TensorView> inputs, std::span<Slot> slots) {
  listen();
  bind(inputs);
  place(inputs);
  aim(slots, !inputs.empty() && inputs.front().device == Device::cuda);
  staging_->stage(inputs);
  enqueue_whole(inputs, slots);
  if (std::exchange(is_new_, false)) kernels_.ran(inputs);
  finish(inputs, slots);
}

cuda::Graph Lane::capture(std::span<const TensorView> inputs, std::span<Slot> slots) {
  settle();
  // Its own stream waits for the default one.
  const cuda::Stream stream(nullptr, cuda::Stream::Kind::waits_for_none);
  if (!is_capturable(*context_, stream)) return {nullptr, nullptr};
  return cuda::capture(stream, [&] { enqueue(inputs, slots, stream); });
}

void Lane::launch(const cuda::Graph& graph, std::span<const TensorView> inputs, std::span<Slot> slots) {
  staging_->stage(inputs);
  cuda::launch(graph, *stream_);
  finish(inputs, slots);
}

// Tells the context which shapes come, once for shapes that come again and again.
void Lane::bind(std::span<const TensorView> inputs) {
  if (is_bound_to(inputs)) return;
  const auto profile = static_cast<std::int32_t>(choose_profile(model_, inputs));
  settle();
  bound_to_.reset();
  select(profile);
  for (std::size_t i = 0; i < inputs.size(); ++i) set_shape(model_.interface.inputs[i].name, inputs[i].shape);
  give_memory();
  auto& shapes = bound_to_.emplace();
  for (const TensorView& input : inputs) shapes.push_back(input.shape);
  is_new_ = true;
}

bool Lane::is_bound_to(std::span<const TensorView> inputs) const {
  return bound_to_ && std::equal(bound_to_->begin(), bound_to_->end(), inputs.begin(), inputs.end(),
                                 [](const Shape& shape, const TensorView& input) { return shape == input.shape; });
}

void Lane::select(std::int32_t profile) {
  if (profile == profile_) return;
  profile_ = -1;
  addresses_.assign(addresses_.size(), nullptr);  // Nothing says that it keeps them.
  if (!context_->setOptimizationProfileAsync(profile, *stream_)) fail(model_.where, "switch to another profile");
  cuda::synchronize(*stream_);
  profile_ = profile;
}

void Lane::set_shape(const std::string& name, const Shape& shape) {
  Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.rank());
  const bool fits = shape.rank() <= static_cast<std::size_t>(Dims::MAX_DIMS);
  if (fits) std::copy(shape.sizes().begin(), shape.sizes().end(), dims.d);
  if (!fits || !context_->setInputShape(name.c_str(), dims)) {
    fail(model_.where, "take " + name + " of shape " + shape.text());
  }
}

// Gives the context as much memory as the shapes want that it was told. It keeps what it had until it has taken another,
// which it does not say but in its log.
void Lane::give_memory() {
  // 0 is for none and for an error alike; and where it wants none for these shapes, and for others does, it is still to
  // be given some.
  std::size_t wanted = context_->updateDeviceMemorySizeForShapes();
  if (wanted == 0) wanted = static_cast<std::size_t>(std::max<std::int64_t>(engine_.getDeviceMemorySizeV2(), 1));
  const bool is_larger = wanted > activation_bytes();
  Memory larger(nullptr, cuda::release);
  if (is_larger) larger.reset(reinterpret_cast<void*>(cuda::allocate(wanted, "a context of `" + model_.where + "`")));
  const std::size_t size = is_larger ? wanted : activation_bytes();
  listen();
  context_->setDeviceMemoryV2(is_larger ? larger.get() : memory_.get(), static_cast<std::int64_t>(size));
  if (has_complained()) fail(model_.where, "take memory for its activations");
  if (is_larger) memory_ = std::move(larger), activation_bytes_ = wanted;
}

// Says where each input is read: where it lies, or in a buffer.
void Lane::place(std::span<const TensorView> inputs) {
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    give(i, model_.interface.inputs[i], staging_->input(i, inputs[i], *stream_));
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
    give(model_.interface.inputs.size() + index, spec, staging_->output(index, target, *stream_));
  }
}

// Copies in, a run, copies out.
void Lane::enqueue(std::span<const TensorView> inputs, std::span<Slot> slots, cuda::StreamHandle stream) {
  staging_->copy_in(inputs, stream);
  if (!context_->enqueueV3(stream)) fail(model_.where, "run");
  staging_->copy_out(slots, stream);
}

// The same on the lane's stream, of which nothing is under way where it fails.
void Lane::enqueue_whole(std::span<const TensorView> inputs, std::span<Slot> slots) {
  try {
    enqueue(inputs, slots, *stream_);
  } catch (...) {
    cuda::synchronize(*stream_);
    throw;
  }
}

// Waits for what was enqueued, unless all of it stays on the GPU and is in the order of the caller's stream, and
// delivers the outputs that are wanted in main memory.
void Lane::finish(std::span<const TensorView> inputs, std::span<Slot> slots) {
  is_under_way_ = stream_->is_callers() && !touches_main_memory(inputs, slots);
  if (is_under_way_) end_->record(*stream_);
  else cuda::synchronize(*stream_);
  staging_->deliver(slots);
}

// A context is told no other shapes, and given no other memory of its own, while a run of it is under way. Addresses are
// a run's own from when it is enqueued, as NVIDIA's Triton relies on too.
void Lane::settle() {
  if (std::exchange(is_under_way_, false)) end_->wait();
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

void Lane::give(std::size_t index, const TensorSpec& spec, void* address) {
  if (addresses_[index] == address) return;
  addresses_[index] = nullptr;
  if (!context_->setTensorAddress(spec.name.c_str(), address)) fail(model_.where, "take an address for " + spec.name);
  addresses_[index] = address;
}

}  // namespace gantk::tensorrt

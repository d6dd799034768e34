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

// Engines of TensorRT for RTX can be captured into CUDA graphs, and want to be given their memory for it.
#ifdef TRT_MAJOR_RTX
constexpr Allocation allocation = Allocation::kUSER_MANAGED;
#else
constexpr Allocation allocation = Allocation::kSTATIC;
#endif

constexpr std::size_t alignment = 256;  // of inputs and outputs, as setTensorAddress wants it

// TensorRT for RTX can say that beforehand, in releases that can tell; else a capture has to fail.
template <class Context>
bool is_capturable(Context& context, cuda::StreamHandle stream) {
  if constexpr (requires { context.isStreamCapturable(stream); }) return context.isStreamCapturable(stream);
  else return true;
}

}  // namespace

Lane::Lane(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream)
    : model_(model), kernels_(kernels), stream_(stream) {
  listen();
  make_context(engine);
  if (context_ == nullptr) fail(model_.where, "make a context", "end what else uses the GPU");
  // What is allocated with the context is as much as its largest shapes want.
  if (allocation == Allocation::kSTATIC) activation_bytes_ = static_cast<std::size_t>(engine.getDeviceMemorySizeV2());
  staging_.emplace(model_.interface, model_.where, alignment);
}

Lane::~Lane() {
  try {
    const cuda::Current current;
    cuda::synchronize(*stream_);
    staging_.reset(), context_.reset(), configuration_.reset(), memory_.reset(), stream_.reset();
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

cuda::Graph Lane::capture(std::span<const TensorView> inputs, std::span<Slot> slots) {
  synchronize();
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
  if (wanted > activation_bytes()) {
    cuda::synchronize(*stream_);  // A run that was queued may still use the old place.
    memory_.reset(), activation_bytes_ = 0;
    memory_.reset(reinterpret_cast<void*>(cuda::allocate(wanted, "a context of `" + model_.where + "`")));
    activation_bytes_ = wanted;
  }
  context_->setDeviceMemoryV2(memory_.get(), static_cast<std::int64_t>(activation_bytes()));
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

}  // namespace gantk::tensorrt

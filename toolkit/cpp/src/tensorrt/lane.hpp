// SPDX-License-Identifier: Apache-2.0
// One context of an engine with all that its runs take.
#pragma once

#include <NvInferRuntime.h>

#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "cuda.hpp"
#include "gantk/backend.hpp"
#include "staging.hpp"
#include "tensorrt/kernel_cache.hpp"

namespace gantk::tensorrt {

// One thread at a time uses it, with a `cuda::Current`, which only the end has itself. What it is made of outlives it.
class Lane {
 public:
  // On the caller's stream, or one of its own where that is null.
  Lane(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  ~Lane();

  // On the caller's stream, runs from GPU memory to GPU memory are queued and not waited for, but by the next one of
  // other shapes.
  void run(std::span<const TensorView> inputs, std::span<Slot> slots);

  // A run that has just been as a graph, with all that it copies; null where the engine cannot be captured. The lane
  // runs nothing else until the graph is gone.
  cuda::Graph capture(std::span<const TensorView> inputs, std::span<Slot> slots);
  void launch(const cuda::Graph& graph, std::span<const TensorView> inputs, std::span<Slot> slots);

  // Waits for the run that is under way, if there is one; the caller's stream may be gone.
  void settle();

  // GPU memory that the context has for what is between the layers, and that inputs and outputs take; for any thread.
  std::size_t activation_bytes() const noexcept { return activation_bytes_.load(std::memory_order_relaxed); }
  std::size_t buffer_bytes() const noexcept { return staging_->size_bytes(); }

 private:
  using Memory = std::unique_ptr<void, void (*)(void*) noexcept>;

  void make_context();
  void bind(std::span<const TensorView> inputs);
  bool is_bound_to(std::span<const TensorView> inputs) const;
  void select(std::int32_t profile);
  void set_shape(const std::string& name, const Shape& shape);
  void give_memory();
  void place(std::span<const TensorView> inputs);
  void aim(std::span<Slot> slots, bool on_gpu);
  void enqueue(std::span<const TensorView> inputs, std::span<Slot> slots, cuda::StreamHandle stream);
  void enqueue_whole(std::span<const TensorView> inputs, std::span<Slot> slots);
  void finish(std::span<const TensorView> inputs, std::span<Slot> slots);
  Shape output_shape(const TensorSpec& spec) const;
  void give(std::size_t index, const TensorSpec& spec, void* address);

  const Model& model_;
  nvinfer1::ICudaEngine& engine_;
  KernelCache& kernels_;
  std::optional<cuda::Stream> stream_;
  Memory memory_{nullptr, cuda::release};  // for what a run holds between its layers
  std::atomic<std::size_t> activation_bytes_ = 0;
  std::optional<std::vector<Shape>> bound_to_;               // the shapes of inputs that the context was told
  std::vector<void*> addresses_;                             // of inputs, then of outputs, that it was told
  std::optional<cuda::Event> end_;                           // of the last run that was not waited for
  bool is_under_way_ = false;                                // whether that may not be reached yet
  bool is_new_ = false;                                      // whether there was no run since
  std::unique_ptr<nvinfer1::IRuntimeConfig> configuration_;  // Lives as long as the context that is made with it.
  std::unique_ptr<nvinfer1::IExecutionContext> context_;
  std::optional<Staging> staging_;
  std::int32_t profile_ = -1;  // None: the first one is selected too.
};

}  // namespace gantk::tensorrt

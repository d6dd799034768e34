// SPDX-License-Identifier: Apache-2.0
// What a run on a GPU copies: arrays in main memory have twins in GPU memory, with pinned memory between.
#pragma once

#include <memory>
#include <span>

#include "cuda.hpp"
#include "gantk/backend.hpp"

namespace gantk {

// The array that an output is written to: the caller's memory, or a fresh one.
inline MutableTensorView target_of(Slot& slot) {
  return slot.memory.data == nullptr ? slot.fresh.mutable_view() : slot.memory;
}

// Refuses an array in GPU memory whose address is no multiple of `alignment` bytes.
void check_alignment(const TensorSpec& spec, const TensorView& array, std::size_t alignment);

// Whether an array of a run is in main memory, so that the run is waited for.
bool touches_main_memory(std::span<const TensorView> inputs, std::span<Slot> slots);

// The twins, which stay from run to run and grow. One thread at a time uses them; all but the constructor want a
// `cuda::Current`, and so does the end.
class Staging {
 public:
  // `alignment`: what the addresses of arrays in GPU memory must be a multiple of, in bytes.
  Staging(const Interface& interface, std::string where, std::size_t alignment);

  // Where the GPU reads an input, and writes an output: where the array is, or in its twin. A twin that is too small
  // moves, after what was queued on `stream` with its old place. Throws Error where an array is not aligned.
  void* input(std::size_t index, const TensorView& array, cuda::StreamHandle stream);
  void* output(std::size_t index, const TensorView& array, cuda::StreamHandle stream);

  // GPU memory that the twins take; any thread may ask, without a `cuda::Current`.
  std::size_t size_bytes() const noexcept;

  // Whether an address is of pinned memory here.
  bool keeps(const void* address) const;

  void stage(std::span<const TensorView> inputs);  // from main memory to pinned memory, now
  void copy_in(std::span<const TensorView> inputs, cuda::StreamHandle stream);
  void copy_out(std::span<Slot> slots, cuda::StreamHandle stream);
  void deliver(std::span<Slot> slots);  // from pinned memory to main memory, once the stream is done

 private:
  void* twin(std::size_t index, const TensorSpec& spec, const TensorView& array, cuda::StreamHandle stream);
  cuda::Buffer& twin_of(const Slot& slot) { return twins_[interface_.inputs.size() + slot.index]; }
  std::span<const cuda::Buffer> twins() const {
    return {twins_.get(), interface_.inputs.size() + interface_.outputs.size()};
  }

  const Interface& interface_;
  std::string where_;
  std::size_t alignment_;
  std::unique_ptr<cuda::Buffer[]> twins_;  // of the inputs, then of the outputs
};

}  // namespace gantk

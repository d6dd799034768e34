// SPDX-License-Identifier: Apache-2.0
// The few calls of CUDA's driver that running on a GPU takes, each checked. The driver is loaded when it is first used,
// so that programs start without one, and declared here, so that gantk is built without CUDA's headers.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>

#include "gantk/tensor.hpp"

struct CUevent_st;
struct CUstream_st;
struct CUgraphExec_st;

namespace gantk::cuda {

using Address = unsigned long long;   // what cuda.h calls CUdeviceptr
using StreamHandle = ::CUstream_st*;  // CUstream, and cudaStream_t

// The architecture of the first GPU, e.g. "sm_89"; `driver_fault()` must be empty.
std::string gpu_target();
std::string gpu_name();  // e.g. "NVIDIA GeForce RTX 4090"

// While it lives, calls of this thread go to the first GPU's primary context, which is the one CUDA's runtime uses.
class Current {
 public:
  Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current();
};

// What follows wants a `Current`.

Address allocate(std::size_t size, const std::string& what);  // throws Error: how much was wanted and is free
void copy_in(Address target, const void* source, std::size_t size, StreamHandle stream);
void copy_out(void* target, Address source, std::size_t size, StreamHandle stream);
void synchronize(StreamHandle stream);

// Gives memory on the GPU back, from whatever thread; where the driver is gone, so is the memory.
void release(void* memory) noexcept;

// An array in GPU memory, not set.
Tensor make_tensor(DType dtype, const Shape& shape, const std::string& what);

// A stream that is the caller's, or one of its own.
class Stream {
 public:
  enum class Kind { waits_for_default, waits_for_none };  // CUDA's default stream, where callers without streams work

  explicit Stream(void* callers, Kind kind = Kind::waits_for_default);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();
  operator StreamHandle() const noexcept { return stream_; }
  bool is_callers() const noexcept { return !owned_; }

 private:
  StreamHandle stream_ = nullptr;
  bool owned_;
};

// All that a stream had got by some time; null is CUDA's default stream. For one thread at a time.
class Event {
 public:
  Event();
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event();

  void record(StreamHandle stream) const;  // that time is now
  void hold(StreamHandle next) const;      // lets all that `next` gets from now on wait for it
  void wait() const;                       // until it is done; the stream may be gone

 private:
  ::CUevent_st* event_ = nullptr;
};

// Streams that wait for each other.
class Order {
 public:
  // Lets all that `next` gets from now on wait for all that `first` has got so far. For one thread at a time.
  void keep(StreamHandle first, StreamHandle next) const;

 private:
  Event event_;
};

// What a stream was given, to be given again in one call.
using Graph = std::unique_ptr<::CUgraphExec_st, void (*)(::CUgraphExec_st*) noexcept>;

// What `work` enqueues on a stream, without doing it; null where that cannot be captured. The stream waits for none:
// else whoever works on the default one meanwhile would fail, and so would this.
//
// A copy from main memory reads at every launch what is there by then. Where `is_kept` is given, a graph that copies of
// other main memory than it says, or does more than compute and copy, counts as one that cannot be captured.
Graph capture(StreamHandle stream, const std::function<void()>& work,
              const std::function<bool(const void*)>& is_kept = nullptr);
void launch(const Graph& graph, StreamHandle stream);

// A tensor's place in GPU memory and its twin in pinned host memory, which the GPU copies from and to without a detour.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { clear(); }
  bool holds(std::size_t size) const noexcept { return host_ != nullptr && size <= size_bytes(); }
  void reserve(std::size_t size, const std::string& what);  // what it held is lost
  Address device() const noexcept { return device_; }
  void* host() const noexcept { return host_; }
  std::size_t size_bytes() const noexcept { return size_.load(std::memory_order_relaxed); }  // Any thread may ask.

 private:
  void clear() noexcept;

  Address device_ = 0;
  void* host_ = nullptr;
  std::atomic<std::size_t> size_ = 0;
};

}  // namespace gantk::cuda

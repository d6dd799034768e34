// SPDX-License-Identifier: Apache-2.0
// The few calls of CUDA's driver that running an engine takes, each checked. The driver is loaded when it is first used,
// so that programs start without one.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <string>

namespace gantk::tensorrt {

// The architecture of the first GPU, e.g. "sm_89"; `driver_fault()` must be empty.
std::string gpu_target();

// While it lives, calls of this thread go to the first GPU's primary context, which is the one CUDA's runtime uses.
class Current {
 public:
  Current();
  Current(const Current&) = delete;
  Current& operator=(const Current&) = delete;
  ~Current();
};

// What follows wants a `Current`.

CUdeviceptr allocate(std::size_t size, const std::string& what);  // throws Error: how much was wanted and is free
void free(CUdeviceptr memory) noexcept;
void copy_in(CUdeviceptr target, const void* source, std::size_t size, CUstream stream);
void copy_out(void* target, CUdeviceptr source, std::size_t size, CUstream stream);
void synchronize(CUstream stream);

// A stream that is the caller's, or one of its own.
class Stream {
 public:
  // By default its own waits for what is on CUDA's default stream, where callers without streams work.
  explicit Stream(void* callers, unsigned flags = CU_STREAM_DEFAULT);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();
  operator CUstream() const noexcept { return stream_; }
  bool is_callers() const noexcept { return !owned_; }

 private:
  CUstream stream_ = nullptr;
  bool owned_;
};

// What a stream was given, to be given again in one call.
using Graph = std::unique_ptr<CUgraphExec_st, void (*)(CUgraphExec) noexcept>;

// What `work` enqueues on the stream that it is handed, without doing it; null where that cannot be captured.
Graph capture(const std::function<void(CUstream)>& work);
void launch(const Graph& graph, CUstream stream);

// A tensor's place in GPU memory and its twin in pinned host memory, which the GPU copies from and to without a detour.
class Buffer {
 public:
  Buffer() = default;
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;
  ~Buffer() { clear(); }
  bool holds(std::size_t size) const noexcept { return host_ != nullptr && size <= size_; }
  void reserve(std::size_t size, const std::string& what);  // what it held is lost
  CUdeviceptr device() const noexcept { return device_; }
  void* host() const noexcept { return host_; }

 private:
  void clear() noexcept;

  CUdeviceptr device_ = 0;
  void* host_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
// The kernels that TensorRT for RTX compiles when an engine first meets a shape, which takes seconds: kept in the
// user's cache for the processes to come, in the files that Python's runner has too.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <vector>

#include "gantk/tensor.hpp"

namespace gantk::tensorrt {

#ifdef TRT_MAJOR_RTX

// Wants a `cuda::Current`, and lives as long as the contexts that have it.
class KernelCache {
 public:
  // Of the engine in a file with this hash, on the first GPU.
  KernelCache(nvinfer1::ICudaEngine& engine, const std::string& sha256);

  // Lets a context that is made with this take its kernels from here, and leave here those that it compiles.
  void attach_to(nvinfer1::IRuntimeConfig& configuration);

  // Writes the kernels of shapes that a context has run with: services are killed, and never closed.
  void ran(std::span<const TensorView> inputs);

  // Writes what has been compiled by now, if that is more than was read, and can be written.
  void save();

 private:
  void read();
  void write();

  std::string path_;
  std::string known_;  // what the file holds, as the library gave it
  std::unique_ptr<nvinfer1::IRuntimeConfig> configuration_;
  std::unique_ptr<nvinfer1::IRuntimeCache> cache_;  // null where there can be none: kernels are compiled again
  std::vector<std::vector<Shape>> ran_;
  std::mutex mutex_;
};

#else

// TensorRT's engines have their kernels.
class KernelCache {
 public:
  KernelCache(nvinfer1::ICudaEngine&, const std::string&) {}
  void ran(std::span<const TensorView>) {}
  void save() {}
};

#endif

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
// The lanes of an engine: as many as threads and bound runs have wanted at once.
#pragma once

#include <list>
#include <mutex>

#include "tensorrt/lane.hpp"

namespace gantk::tensorrt {

// Thread-safe. What it is made of outlives it.
class Lanes {
 public:
  // Makes the first lane, lest an engine be opened that has no memory for one. Wants a `cuda::Current`.
  Lanes(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream);

  // The memory of all lanes, those that run now included; its `engine` is left at 0.
  MemoryBytes memory_bytes() const noexcept;

  // A lane that is the caller's alone as long as this lives: one that nobody uses, else a new one.
  class Loan {
   public:
    explicit Loan(Lanes& lanes) : lanes_(lanes), lane_(lanes.take()) {}  // Wants a `cuda::Current`.
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;
    ~Loan() { lanes_.put_back(lane_); }
    Lane* operator->() const noexcept { return &*lane_; }

   private:
    Lanes& lanes_;
    std::list<Lane>::iterator lane_;
  };

 private:
  std::list<Lane>::iterator take();
  void put_back(std::list<Lane>::iterator lane) noexcept;

  const Model& model_;
  nvinfer1::ICudaEngine& engine_;
  KernelCache& kernels_;
  void* stream_;
  mutable std::mutex mutex_;  // of the lists: nobody holds it who makes a lane, or runs
  std::list<Lane> idle_, lent_;
};

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/lanes.hpp"

namespace gantk::tensorrt {

Lanes::Lanes(const Model& model, nvinfer1::ICudaEngine& engine, KernelCache& kernels, void* stream)
    : model_(model), engine_(engine), kernels_(kernels), stream_(stream) {
  idle_.emplace_back(model, engine, kernels, stream);
}

MemoryBytes Lanes::memory_bytes() const noexcept {
  MemoryBytes sum;
  const std::lock_guard lock(mutex_);
  for (const auto* lanes : {&idle_, &lent_}) {
    for (const Lane& lane : *lanes) {
      sum.activations += lane.activation_bytes();
      sum.buffers += lane.buffer_bytes();
    }
  }
  return sum;
}

std::list<Lane>::iterator Lanes::take() {
  {
    const std::lock_guard lock(mutex_);
    if (!idle_.empty()) {
      lent_.splice(lent_.begin(), idle_, idle_.begin());
      return lent_.begin();
    }
  }
  // Others go on meanwhile, and may make theirs: an engine makes contexts for several threads at once, which since
  // TensorRT 10 share its profiles.
  std::list<Lane> made;
  made.emplace_back(model_, engine_, kernels_, stream_);
  const std::lock_guard lock(mutex_);
  lent_.splice(lent_.begin(), made);
  return lent_.begin();
}

// To the front, so that few threads stay on few lanes, whose kernels and memory are there.
void Lanes::put_back(std::list<Lane>::iterator lane) noexcept {
  const std::lock_guard lock(mutex_);
  idle_.splice(idle_.begin(), lent_, lane);
}

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
// A file that ONNX Runtime has loaded, and arrays as it has them.
#pragma once

#include <onnxruntime_cxx_api.h>

#include <span>
#include <stdexcept>
#include <string>
#include <vector>

#include "gantk/backend.hpp"
#include "onnxruntime/types.hpp"

namespace gantk::onnxruntime {

struct Network {
  // On the CPU or, where there is a stream, on the GPU. Throws Error where ONNX Runtime refuses the file or what was
  // chosen, or the file's inputs and outputs are not those of the manifest.
  Network(const Model& model, const Options& chosen, void* stream);
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  std::string where;
  Interface interface;  // The names below point into it.
  std::vector<const char*> inputs, outputs;
  // ONNX Runtime's own functions for running are not const, and are thread-safe.
  mutable Ort::Session session;
};

// ONNX Runtime's names for memory: what it may use, and where it is to put results.
const Ort::MemoryInfo& memory_of(Device device);

// An array that ONNX Runtime reads, or writes, where it is.
Ort::Value wrap(const TensorView& view);

// Takes an array that ONNX Runtime made there, with its memory.
Tensor take(Ort::Value value, Device place);

// Does what throws ONNX Runtime's own exceptions, with their message in ours.
template <class Work>
void guard(Work work) {
  try {
    work();
  } catch (const Ort::Exception& error) {
    throw std::runtime_error(message_of(error));
  }
}

}  // namespace gantk::onnxruntime

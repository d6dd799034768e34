// SPDX-License-Identifier: Apache-2.0
// ONNX Runtime's shared library, loaded when it is first asked for.
#pragma once

#include <string>

namespace gantk::onnxruntime {

struct Library {
  std::string version;      // empty where it could not be loaded
  bool has_cuda = false;    // whether it was built with the CUDA provider
  std::string fault, hint;  // why it could not be loaded, and what to do about it
};

// Loads it once a process, and makes the C++ API of ONNX Runtime usable. Tried in this order: what the environment
// variable GANTK_ONNXRUNTIME names, the library that was found when gantk was built, the system's.
const Library& library();

}  // namespace gantk::onnxruntime

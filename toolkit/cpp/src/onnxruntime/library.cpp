// SPDX-License-Identifier: Apache-2.0
#include "onnxruntime/library.hpp"

#include <dlfcn.h>
#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace gantk::onnxruntime {
namespace {

constexpr const char* install_hint =
    "install ONNX Runtime (Debian: apt-get install libonnxruntime-dev; or `pip install onnxruntime`, whose "
    "libonnxruntime.so can be named by the environment variable GANTK_ONNXRUNTIME)";

std::vector<std::string> candidates() {
  if (const char* named = ::secure_getenv("GANTK_ONNXRUNTIME"); named != nullptr && *named != '\0') return {named};
  std::vector<std::string> names = {GANTK_ONNXRUNTIME_LIBRARY, "libonnxruntime.so.1", "libonnxruntime.so"};
  std::erase(names, std::string());
  return names;
}

// The first that loads. Of several failures the first is told: it is about the library that was meant.
void* open_library(std::string& fault) {
  for (const std::string& name : candidates()) {
    // Never closed: threads of it may outlive every session.
    if (void* handle = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL)) return handle;
    if (fault.empty()) fault = ::dlerror();
  }
  return nullptr;
}

Library load() {
  Library library;
  void* handle = open_library(library.fault);
  const auto* symbol = handle == nullptr ? nullptr : ::dlsym(handle, "OrtGetApiBase");
  if (symbol == nullptr) {
    library.fault = handle == nullptr ? "its library cannot be loaded: " + library.fault : "its library is another one";
    library.hint = install_hint;
    return library;
  }
  library.fault.clear();
  const OrtApiBase* base = reinterpret_cast<const OrtApiBase* (*)()>(const_cast<void*>(symbol))();
  const OrtApi* api = base->GetApi(ORT_API_VERSION);
  if (api == nullptr) {
    library.fault = std::string("version ") + base->GetVersionString() + " is too old; this gantk wants 1." +
                    std::to_string(ORT_API_VERSION) + " or later";
    library.hint = install_hint;
    return library;
  }
  Ort::InitApi(api);
  library.version = base->GetVersionString();
  const auto providers = Ort::GetAvailableProviders();
  library.has_cuda = std::find(providers.begin(), providers.end(), "CUDAExecutionProvider") != providers.end();
  return library;
}

}  // namespace

const Library& library() {
  static const auto& loaded = *new Library(load());
  return loaded;
}

}  // namespace gantk::onnxruntime

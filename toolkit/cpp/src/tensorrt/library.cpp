// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/library.hpp"

#include <dlfcn.h>

#include <cstdlib>

#include "gantk/error.hpp"
#include "text.hpp"

namespace gantk::tensorrt {
namespace {

#ifdef TRT_MAJOR_RTX
constexpr const char* variable = "GANTK_TENSORRT_RTX";
constexpr const char* stem = "libtensorrt_rtx.so.";
#else
constexpr const char* variable = "GANTK_TENSORRT";
constexpr const char* stem = "libnvinfer.so.";
#endif

constexpr std::size_t message_limit = 2000;

std::string& heard() {
  thread_local std::string messages;
  return messages;
}

class Logger : public nvinfer1::ILogger {
  void log(Severity severity, const char* message) noexcept override {
    if (severity > Severity::kERROR || heard().size() > message_limit) return;
    heard() += (heard().empty() ? "" : "; ") + std::string(message);
  }
};

std::string library_name() {
  if (const char* named = ::secure_getenv(variable); named != nullptr && *named != '\0') return named;
  return stem + std::to_string(NV_TENSORRT_MAJOR);
}

Library load() {
  Library library;
  library.hint = "install " + std::string(product) + " " + std::to_string(NV_TENSORRT_MAJOR) +
                 "; the environment variable " + variable + " can name its library";
  // Never closed: threads of it may outlive every session.
  void* handle = ::dlopen(library_name().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.fault = std::string("its library cannot be loaded: ") + ::dlerror();
    return library;
  }
  std::string version;
  for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
    void* number = ::dlsym(handle, ("getInferLib" + std::string(part) + "Version").c_str());
    if (number == nullptr) break;
    version += (version.empty() ? "" : ".") + std::to_string(reinterpret_cast<std::int32_t (*)()>(number)());
  }
  void* create = ::dlsym(handle, "createInferRuntime_INTERNAL");
  if (create == nullptr || !version.starts_with(std::to_string(NV_TENSORRT_MAJOR) + ".")) {
    library.fault = "its library is another one" + (version.empty() ? version : ", of version " + version);
    return library;
  }
  library.create_runtime = reinterpret_cast<decltype(library.create_runtime)>(create);
  library.version = version;
  library.hint.clear();
  return library;
}

}  // namespace

const Library& library() {
  static const auto& loaded = *new Library(load());
  return loaded;
}

std::unique_ptr<nvinfer1::IRuntime> create_runtime() {
  // One for the process, which the library keeps.
  static auto& logger = *new Logger();
  nvinfer1::ILogger* base = &logger;
  return std::unique_ptr<nvinfer1::IRuntime>(
      static_cast<nvinfer1::IRuntime*>(library().create_runtime(base, NV_TENSORRT_VERSION)));
}

void listen() { heard().clear(); }

void fail(const std::string& where, const std::string& doing, const std::string& hint) {
  const std::string said = shortened(heard().empty() ? "it gave no reason" : heard());
  throw Error("`" + where + "` cannot " + doing + ": " + said, where, hint);
}

}  // namespace gantk::tensorrt

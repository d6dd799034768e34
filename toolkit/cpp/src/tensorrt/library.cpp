// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/library.hpp"

#include <dlfcn.h>

#include <cstdlib>
#include <vector>

#include "gantk/error.hpp"
#include "symbol.hpp"
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

// From the major version on, as the library says it; less where it is another library.
std::vector<std::int32_t> version_of(void* handle) {
  std::vector<std::int32_t> version;
  for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
    const auto number = symbol<std::int32_t()>(handle, ("getInferLib" + std::string(part) + "Version").c_str());
    if (number == nullptr) break;
    version.push_back(number());
  }
  return version;
}

std::string text_of(const std::vector<std::int32_t>& version) {
  std::vector<std::string> parts;
  for (const std::int32_t part : version) parts.push_back(std::to_string(part));
  return join(parts, ".");
}

// Within a major version functions are appended to the product's classes: a library that is older than the headers
// lacks some, and calls of them would end anywhere.
bool has_what_was_compiled(const std::vector<std::int32_t>& version) {
  return version.size() > 1 && version[0] == NV_TENSORRT_MAJOR && version[1] >= NV_TENSORRT_MINOR;
}

Library load() {
  const std::string major = std::to_string(NV_TENSORRT_MAJOR);
  const std::string wanted = major + "." + std::to_string(NV_TENSORRT_MINOR) + " or a later " + major + ".x";
  Library library;
  library.hint = "install " + std::string(product) + " " + wanted + "; the environment variable " + variable +
                 " can name its library";
  // Never closed: threads of it may outlive every session.
  void* handle = ::dlopen(library_name().c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.fault = std::string("its library cannot be loaded: ") + ::dlerror();
    return library;
  }
  const std::vector<std::int32_t> version = version_of(handle);
  void* create = ::dlsym(handle, "createInferRuntime_INTERNAL");
  if (create == nullptr || version.empty()) {
    library.fault = "`" + library_name() + "` is another library";
    return library;
  }
  if (!has_what_was_compiled(version)) {
    library.fault = "its library is of version " + text_of(version) + "; " + wanted + " is wanted, as gantk was built";
    return library;
  }
  library.create_runtime = reinterpret_cast<decltype(library.create_runtime)>(create);
  library.version = text_of(version);
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

bool has_complained() { return !heard().empty(); }

void fail(const std::string& where, const std::string& doing, const std::string& hint) {
  const std::string said = shortened(heard().empty() ? "it gave no reason" : heard());
  throw Error("`" + where + "` cannot " + doing + ": " + said, where, hint);
}

}  // namespace gantk::tensorrt

// SPDX-License-Identifier: Apache-2.0
#include "load_backend.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <optional>

#include "gantk/backend.hpp"
#include "gantk/error.hpp"
#include "symbol.hpp"
#include "text.hpp"

namespace gantk {
namespace {

constexpr const char* variable = "GANTK_BACKENDS";

// What went wrong, or nothing.
std::optional<Error> load_all(std::string_view names) {
  try {
    while (!names.empty()) {
      const std::size_t end = std::min(names.find(':'), names.size());
      if (end > 0) load_backend(std::string(names.substr(0, end)));
      names.remove_prefix(std::min(end + 1, names.size()));
    }
    return std::nullopt;
  } catch (const Error& error) {
    return error;
  }
}

}  // namespace

void load_backend(const std::string& library) {
  // Never closed: the backend stays for the whole process.
  void* handle = ::dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    throw Error("the backend `" + library + "` cannot be loaded: " + ::dlerror(), library,
                "check the path, and " + std::string(variable), ErrorKind::backend_missing);
  }
  const auto version_of = symbol<const char*()>(handle, "gantk_backend_version");
  const auto make = symbol<Backend*()>(handle, "gantk_make_backend");
  if (version_of == nullptr || make == nullptr) throw Error("`" + library + "` is no backend of gantk", library);
  if (const std::string built = version_of(); built != version) {
    throw Error("the backend `" + library + "` is of gantk " + built + "; this is " + version, library,
                "build both together");
  }
  add_backend(std::unique_ptr<Backend>(make()));
}

void load_named_backends() {
  static const auto& fault = *new std::optional<Error>([]() -> std::optional<Error> {
    const char* names = ::secure_getenv(variable);
    return names == nullptr ? std::nullopt : load_all(names);
  }());
  if (fault) throw *fault;
}

}  // namespace gantk

// SPDX-License-Identifier: Apache-2.0
#include "driver.hpp"

#include <dlfcn.h>

#include "symbol.hpp"

namespace gantk {
namespace {

constexpr const char* library_name = "libcuda.so.1";

std::string ask() {
  void* cuda = ::dlopen(library_name, RTLD_NOW | RTLD_LOCAL);
  if (cuda == nullptr) return std::string("no NVIDIA driver: ") + library_name + " is not there";
  const auto init = symbol<int(unsigned)>(cuda, "cuInit");
  const auto count_devices = symbol<int(int*)>(cuda, "cuDeviceGetCount");
  const auto error_name = symbol<int(int, const char**)>(cuda, "cuGetErrorName");
  if (init == nullptr || count_devices == nullptr || error_name == nullptr)
    return "the NVIDIA driver is another library";
  if (const int status = init(0); status != 0) {
    const char* name = nullptr;
    const bool has_name = error_name(status, &name) == 0 && name != nullptr;
    return "the NVIDIA driver does not start: cuInit gives " + (has_name ? std::string(name) : std::to_string(status));
  }
  int devices = 0;
  return count_devices(&devices) == 0 && devices > 0 ? "" : "the NVIDIA driver sees no GPU";
}

}  // namespace

const std::string& driver_fault() {
  static const auto& fault = *new std::string(ask());
  return fault;
}

}  // namespace gantk

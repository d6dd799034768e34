// SPDX-License-Identifier: Apache-2.0
#include "api.hpp"

#include <dlfcn.h>

#include <string>

#include "driver.hpp"

namespace gantk::driver {
namespace {

void* find(void* library, const char* name) {
    void* const function = dlsym(library, name);
    if (function == nullptr)
        throw Error(std::string("the NVIDIA driver has no ") + name +
                    "; update it to one of CUDA 12 or later");
    return function;
}

Api load() {
    void* const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) throw Error(std::string("there is no NVIDIA driver: ") + dlerror());
    Api found{};
#define GANTK_DRIVER_FIND(name) found.name = reinterpret_cast<decltype(&::name)>(find(library, #name));
    GANTK_DRIVER_FUNCTIONS(GANTK_DRIVER_FIND)
#undef GANTK_DRIVER_FIND
    const CUresult status = found.cuInit(0);
    if (status != CUDA_SUCCESS)
        throw Error("the NVIDIA driver does not start: cuInit gives " + std::to_string(status));
    return found;
}

}  // namespace

const Api& api() {
    static const Api found = load();  // Tried again after a failure.
    return found;
}

void check(CUresult status, const char* call, const char* where) {
    if (status == CUDA_SUCCESS) return;
    const char* name = nullptr;
    api().cuGetErrorName(status, &name);
    throw Error(std::string(call) + " gives " + (name ? name : std::to_string(status)) + " for " + where);
}

}  // namespace gantk::driver

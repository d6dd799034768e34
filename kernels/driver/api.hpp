// SPDX-License-Identifier: Apache-2.0
// The functions of libcuda.so.1 that are used, found by name.
#pragma once

#include <cuda.h>

namespace gantk::driver {

// Names as the library exports them; cuda.h makes some of them macros for later versions, which are the same
// here.
#define GANTK_DRIVER_FUNCTIONS(ENTRY) \
    ENTRY(cuInit)                     \
    ENTRY(cuDriverGetVersion)         \
    ENTRY(cuGetErrorName)             \
    ENTRY(cuCtxGetDevice)             \
    ENTRY(cuDeviceGetAttribute)       \
    ENTRY(cuLibraryLoadData)          \
    ENTRY(cuLibraryGetKernel)         \
    ENTRY(cuKernelGetAttribute)       \
    ENTRY(cuKernelSetAttribute)       \
    ENTRY(cuLaunchKernelEx)           \
    ENTRY(cuTensorMapEncodeTiled)     \
    ENTRY(cuThreadExchangeStreamCaptureMode)

struct Api {
#define GANTK_DRIVER_POINTER(name) decltype(&::name) name;
    GANTK_DRIVER_FUNCTIONS(GANTK_DRIVER_POINTER)
#undef GANTK_DRIVER_POINTER
};

// Throws Error where the driver is missing, lacks one of the functions, or finds no GPU.
const Api& api();

// Throws Error, which names the call and the driver's word for what went wrong, unless `status` is success.
void check(CUresult status, const char* call, const char* where);

}  // namespace gantk::driver

// SPDX-License-Identifier: Apache-2.0
// A libcuda.so.1 that tells on standard output what it is asked to do. A unit's image is its name.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>

#include <cuda.h>

namespace {

std::string names[64];  // Handles of kernels are addresses in here.
int count = 0;
CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_GLOBAL;

}  // namespace

extern "C" {

CUresult cuInit(unsigned) { return CUDA_SUCCESS; }

CUresult cuDriverGetVersion(int* version) {
    *version = 13000;
    return CUDA_SUCCESS;
}

CUresult cuGetErrorName(CUresult, const char** name) {
    *name = "CUDA_ERROR_OF_THE_FAKE";
    return CUDA_SUCCESS;
}

CUresult cuCtxGetDevice(CUdevice* device) {
    *device = 3;
    return CUDA_SUCCESS;
}

CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice device) {
    if (device != 3) return CUDA_ERROR_INVALID_DEVICE;
    *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR            ? 9
             : which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR          ? 0
             : which == CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT              ? 132
             : which == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? 232448
                                                                              : -1;
    return CUDA_SUCCESS;
}

CUresult cuThreadExchangeStreamCaptureMode(CUstreamCaptureMode* given) {
    std::swap(*given, mode);
    return CUDA_SUCCESS;
}

CUresult cuLibraryLoadData(CUlibrary* library, const void* image, CUjit_option*, void**, unsigned,
                           CUlibraryOption*, void**, unsigned) {
    std::printf("load %s%s\n", static_cast<const char*>(image),
                mode == CU_STREAM_CAPTURE_MODE_RELAXED ? "" : " while a capture forbids it");
    *library = static_cast<CUlibrary>(const_cast<void*>(image));
    return CUDA_SUCCESS;
}

CUresult cuLibraryGetKernel(CUkernel* kernel, CUlibrary library, const char* name) {
    if (std::strcmp(name, "missing") == 0) return CUDA_ERROR_NOT_FOUND;
    names[count] = std::string(reinterpret_cast<const char*>(library)) + "." + name;
    *kernel = reinterpret_cast<CUkernel>(&names[count++]);
    return CUDA_SUCCESS;
}

CUresult cuKernelSetAttribute(CUfunction_attribute which, int value, CUkernel kernel, CUdevice device) {
    if (which != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES || device != 3)
        return CUDA_ERROR_INVALID_VALUE;
    std::printf("lend %d to %s\n", value, reinterpret_cast<std::string*>(kernel)->c_str());
    return CUDA_SUCCESS;
}

// The code of a unit named "old" is for an older architecture than the GPU's.
CUresult cuKernelGetAttribute(int* value, CUfunction_attribute which, CUkernel kernel, CUdevice device) {
    if (which != CU_FUNC_ATTRIBUTE_PTX_VERSION || device != 3) return CUDA_ERROR_INVALID_VALUE;
    *value = reinterpret_cast<std::string*>(kernel)->rfind("old.", 0) == 0 ? 80 : 90;
    return CUDA_SUCCESS;
}

CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction kernel, void** parameters, void** extra) {
    std::uint64_t first = 0;
    std::memcpy(&first, parameters[0], sizeof first);
    const bool early = config->numAttrs == 1 &&
                       config->attrs[0].id == CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION &&
                       config->attrs[0].value.programmaticStreamSerializationAllowed == 1;
    if (config->numAttrs > 0 && !early) return CUDA_ERROR_INVALID_VALUE;
    std::printf("launch %s %ux%ux%u of %ux%ux%u, %u bytes, stream %lu, parameters begin with %#lx%s%s\n",
                reinterpret_cast<std::string*>(kernel)->c_str(), config->gridDimX, config->gridDimY,
                config->gridDimZ, config->blockDimX, config->blockDimY, config->blockDimZ,
                config->sharedMemBytes, reinterpret_cast<unsigned long>(config->hStream),
                static_cast<unsigned long>(first), early ? ", early" : "", extra ? ", extra" : "");
    return CUDA_SUCCESS;
}

CUresult cuTensorMapEncodeTiled(CUtensorMap* map, CUtensorMapDataType type, cuuint32_t rank, void* address,
                                const cuuint64_t* sizes, const cuuint64_t* strides, const cuuint32_t* box,
                                const cuuint32_t* steps, CUtensorMapInterleave, CUtensorMapSwizzle swizzle,
                                CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0) return CUDA_ERROR_INVALID_VALUE;
    std::printf("map type %d at %#lx: %lu x %lu, stride %lu, box %u x %u, steps %u x %u, swizzle %d\n",
                int(type), reinterpret_cast<unsigned long>(address), static_cast<unsigned long>(sizes[0]),
                static_cast<unsigned long>(sizes[1]), static_cast<unsigned long>(strides[0]), box[0], box[1],
                steps[0], steps[rank - 1], int(swizzle));
    std::memset(map, 0x5a, sizeof *map);
    return CUDA_SUCCESS;
}

}  // extern "C"

// SPDX-License-Identifier: Apache-2.0
#include "driver.hpp"

#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <tuple>

#include "api.hpp"
#include "units.hpp"

namespace gantk::driver {
namespace {

using kernels::Element;
using kernels::Launch;
using kernels::TensorMap;

// More is lent to kernels that ask for it. Everyone has 48 KiB, of which static variables are a part.
constexpr std::uint32_t kDefaultSharedBytes = 32 * 1024;

// Kernels wait for the launch before them in code for these and later ones, and drivers from here on capture that.
constexpr int kWaitingArchitecture = 90;
constexpr int kEarlyLaunchesInGraphs = 12030;

struct LoadedKernel {
    CUkernel handle;
    bool waits = false;  // It can wait by itself for the launch before it.
    std::uint32_t lent_bytes = kDefaultSharedBytes;
};

// Loading code may allocate, which a stream that is captured into a graph forbids unless its thread is at
// ease.
class RelaxedCapture {
  public:
    RelaxedCapture() { exchange(); }
    ~RelaxedCapture() { exchange(); }

  private:
    void exchange() { api().cuThreadExchangeStreamCaptureMode(&mode_); }
    CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

CUlibrary load_unit(const std::string& name) {
    for (int index = 0; index < kUnitCount; ++index) {
        if (name != kUnits[index].name) continue;
        const RelaxedCapture relaxed;
        CUlibrary library = nullptr;
        check(
            api().cuLibraryLoadData(&library, kUnits[index].image, nullptr, nullptr, 0, nullptr, nullptr, 0),
            "cuLibraryLoadData", name.c_str());
        return library;
    }
    throw Error("this library has no kernels of the unit " + name);
}

// Code belongs to the process (the driver puts it into each context); what a kernel may use belongs to a
// device.
class Loaded {
  public:
    LoadedKernel find(CUdevice device, const Launch& launch) {
        const std::lock_guard lock(mutex_);
        auto [found, added] = kernels_.try_emplace({device, launch.unit, launch.kernel});
        LoadedKernel& kernel = found->second;
        if (kernel.handle == nullptr) {
            kernel.handle = handle_of(launch);
            kernel.waits = waits(kernel.handle, device);
        }
        if (launch.shared_bytes > kernel.lent_bytes) {
            check(api().cuKernelSetAttribute(CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                             static_cast<int>(launch.shared_bytes), kernel.handle, device),
                  "cuKernelSetAttribute", launch.kernel.c_str());
            kernel.lent_bytes = launch.shared_bytes;
        }
        return kernel;
    }

  private:
    // Of the code that the driver chose: that of an older architecture runs on a newer one.
    static bool waits(CUkernel kernel, CUdevice device) {
        const char* const wanted = ::secure_getenv("GANTK_EARLY_LAUNCHES");
        if (wanted != nullptr && std::strcmp(wanted, "off") == 0) return false;
        const RelaxedCapture relaxed;  // To tell, the driver may load the code.
        int architecture = 0, version = 0;
        return api().cuKernelGetAttribute(&architecture, CU_FUNC_ATTRIBUTE_PTX_VERSION, kernel, device) ==
                   CUDA_SUCCESS &&
               architecture >= kWaitingArchitecture &&
               api().cuDriverGetVersion(&version) == CUDA_SUCCESS && version >= kEarlyLaunchesInGraphs;
    }

    CUkernel handle_of(const Launch& launch) {
        auto [found, added] = libraries_.try_emplace(launch.unit);
        if (found->second == nullptr) found->second = load_unit(launch.unit);
        CUkernel handle = nullptr;
        check(api().cuLibraryGetKernel(&handle, found->second, launch.kernel.c_str()), "cuLibraryGetKernel",
              launch.kernel.c_str());
        return handle;
    }

    std::mutex mutex_;
    std::map<std::string, CUlibrary> libraries_;
    std::map<std::tuple<CUdevice, std::string, std::string>, LoadedKernel> kernels_;
};

Loaded& loaded() {
    static auto* const all =
        new Loaded;  // Code stays loaded; the driver may be gone before static objects are.
    return *all;
}

CUdevice device_of_context() {
    CUdevice device = 0;
    check(api().cuCtxGetDevice(&device), "cuCtxGetDevice", "the calling thread");
    return device;
}

int attribute(CUdevice device, CUdevice_attribute which) {
    int value = 0;
    check(api().cuDeviceGetAttribute(&value, which, device), "cuDeviceGetAttribute", "the GPU");
    return value;
}

CUtensorMapDataType type_of(const TensorMap& map) {
    switch (map.element) {
        case Element::float32:
            return map.as_tf32 ? CU_TENSOR_MAP_DATA_TYPE_TFLOAT32 : CU_TENSOR_MAP_DATA_TYPE_FLOAT32;
        case Element::float16:
            return CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
        case Element::bfloat16:
            return CU_TENSOR_MAP_DATA_TYPE_BFLOAT16;
    }
    throw Error("no tensor map has such elements");
}

CUtensorMapSwizzle swizzle_of(std::int32_t bytes) {
    switch (bytes) {
        case 0:
            return CU_TENSOR_MAP_SWIZZLE_NONE;
        case 32:
            return CU_TENSOR_MAP_SWIZZLE_32B;
        case 64:
            return CU_TENSOR_MAP_SWIZZLE_64B;
        case 128:
            return CU_TENSOR_MAP_SWIZZLE_128B;
    }
    throw Error("no tensor map swizzles " + std::to_string(bytes) + " bytes");
}

// What lies outside of the array reads as 0.
void encode(const TensorMap& wanted, const Launch& launch, unsigned char* parameters) {
    CUtensorMap map;
    const std::vector<std::uint32_t> steps(wanted.sizes.size(), 1);
    check(api().cuTensorMapEncodeTiled(&map, type_of(wanted), static_cast<std::uint32_t>(wanted.sizes.size()),
                                       reinterpret_cast<void*>(wanted.address), wanted.sizes.data(),
                                       wanted.strides_bytes.data(), wanted.box.data(), steps.data(),
                                       CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle_of(wanted.swizzle_bytes),
                                       CU_TENSOR_MAP_L2_PROMOTION_L2_128B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE),
          "cuTensorMapEncodeTiled", launch.kernel.c_str());
    std::memcpy(parameters + wanted.offset, &map, sizeof map);
}

}  // namespace

const kernels::Device& current_device() {
    static std::mutex mutex;
    static auto* const known = new std::map<CUdevice, kernels::Device>;
    const CUdevice device = device_of_context();
    const std::lock_guard lock(mutex);
    auto [found, added] = known->try_emplace(device);
    if (added)
        found->second = {attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR),
                         attribute(device, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR),
                         attribute(device, CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
                         attribute(device, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)};
    return found->second;
}

void launch(const std::vector<Launch>& launches, CUstream stream) {
    const CUdevice device = device_of_context();
    for (const Launch& one : launches) {
        const LoadedKernel kernel = loaded().find(device, one);
        std::vector<unsigned char> parameters = one.parameters;
        for (const TensorMap& map : one.tensor_maps) encode(map, one, parameters.data());
        void* arguments[] = {parameters.data()};
        CUlaunchAttribute early{};
        early.id = CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        early.value.programmaticStreamSerializationAllowed = 1;
        const CUlaunchConfig config{
            one.grid.x,  one.grid.y,       one.grid.z, one.block.x, one.block.y,
            one.block.z, one.shared_bytes, stream,     &early,      one.dependent && kernel.waits ? 1u : 0u};
        check(api().cuLaunchKernelEx(&config, reinterpret_cast<CUfunction>(kernel.handle), arguments, nullptr),
              "cuLaunchKernelEx", one.kernel.c_str());
    }
}

}  // namespace gantk::driver

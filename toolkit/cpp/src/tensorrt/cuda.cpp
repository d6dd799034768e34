// SPDX-License-Identifier: Apache-2.0
#include "tensorrt/cuda.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>

#include "gantk/error.hpp"

namespace gantk::tensorrt {
namespace {

// The macros of cuda.h give some functions another name, which is the one to look up.
#define GANTK_NAME_OF(function) GANTK_TEXT_OF(function)
#define GANTK_TEXT_OF(function) #function
#define GANTK_DRIVER(member, function) decltype(&::function) member = find<decltype(&::function)>(GANTK_NAME_OF(function))

struct Driver {
  template <class Function>
  Function find(const char* name) const {
    void* symbol = library == nullptr ? nullptr : ::dlsym(library, name);
    if (symbol == nullptr) throw Error(std::string("the NVIDIA driver is too old: it has no ") + name, "libcuda.so.1");
    return reinterpret_cast<Function>(symbol);
  }

  void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  GANTK_DRIVER(error_name, cuGetErrorName);
  GANTK_DRIVER(device, cuDeviceGet);
  GANTK_DRIVER(attribute, cuDeviceGetAttribute);
  GANTK_DRIVER(retain, cuDevicePrimaryCtxRetain);
  GANTK_DRIVER(push, cuCtxPushCurrent);
  GANTK_DRIVER(pop, cuCtxPopCurrent);
  GANTK_DRIVER(memory, cuMemGetInfo);
  GANTK_DRIVER(allocate, cuMemAlloc);
  GANTK_DRIVER(free, cuMemFree);
  GANTK_DRIVER(allocate_host, cuMemAllocHost);
  GANTK_DRIVER(free_host, cuMemFreeHost);
  GANTK_DRIVER(copy_in, cuMemcpyHtoDAsync);
  GANTK_DRIVER(copy_out, cuMemcpyDtoHAsync);
  GANTK_DRIVER(create_stream, cuStreamCreate);
  GANTK_DRIVER(destroy_stream, cuStreamDestroy);
  GANTK_DRIVER(synchronize, cuStreamSynchronize);
  GANTK_DRIVER(begin_capture, cuStreamBeginCapture);
  GANTK_DRIVER(end_capture, cuStreamEndCapture);
  GANTK_DRIVER(instantiate, cuGraphInstantiateWithFlags);
  GANTK_DRIVER(launch, cuGraphLaunch);
  GANTK_DRIVER(destroy_captured, cuGraphDestroy);
  GANTK_DRIVER(destroy_graph, cuGraphExecDestroy);
};

const Driver& driver() {
  static const auto& loaded = *new Driver();
  return loaded;
}

std::string name_of(CUresult status) {
  const char* name = nullptr;
  return driver().error_name(status, &name) == CUDA_SUCCESS && name != nullptr ? name : std::to_string(status);
}

void check(CUresult status, const char* call) {
  if (status != CUDA_SUCCESS) throw Error(std::string("CUDA's ") + call + " failed: " + name_of(status), call);
}

CUdevice first_gpu() {
  CUdevice gpu = 0;
  check(driver().device(&gpu, 0), "cuDeviceGet");
  return gpu;
}

// Kept for the whole process, as CUDA's runtime keeps it.
CUcontext primary_context() {
  static const CUcontext kept = [] {
    CUcontext context = nullptr;
    check(driver().retain(&context, first_gpu()), "cuDevicePrimaryCtxRetain");
    return context;
  }();
  return kept;
}

}  // namespace

std::string gpu_target() {
  int major = 0, minor = 0;
  const CUdevice gpu = first_gpu();
  check(driver().attribute(&major, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, gpu), "cuDeviceGetAttribute");
  check(driver().attribute(&minor, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, gpu), "cuDeviceGetAttribute");
  return "sm_" + std::to_string(major) + std::to_string(minor);
}

Current::Current() { check(driver().push(primary_context()), "cuCtxPushCurrent"); }

Current::~Current() {
  CUcontext popped = nullptr;
  driver().pop(&popped);
}

CUdeviceptr allocate(std::size_t size, const std::string& what) {
  CUdeviceptr memory = 0;
  const CUresult status = driver().allocate(&memory, std::max<std::size_t>(size, 1));
  if (status == CUDA_SUCCESS) return memory;
  std::size_t free = 0, total = 0;
  check(driver().memory(&free, &total), "cuMemGetInfo");
  constexpr double mib = 1 << 20;
  char figures[160];
  std::snprintf(figures, sizeof figures, "%.1f MiB of GPU memory (%s); %.1f of %.1f MiB are free",
                static_cast<double>(size) / mib, name_of(status).c_str(), static_cast<double>(free) / mib,
                static_cast<double>(total) / mib);
  throw Error(what + " wants " + figures, what, "end what else uses the GPU, or give smaller pictures");
}

void free(CUdeviceptr memory) noexcept { driver().free(memory); }

void copy_in(CUdeviceptr target, const void* source, std::size_t size, CUstream stream) {
  check(driver().copy_in(target, source, size, stream), "cuMemcpyHtoDAsync");
}

void copy_out(void* target, CUdeviceptr source, std::size_t size, CUstream stream) {
  check(driver().copy_out(target, source, size, stream), "cuMemcpyDtoHAsync");
}

void synchronize(CUstream stream) { check(driver().synchronize(stream), "cuStreamSynchronize"); }

Stream::Stream(void* callers, unsigned flags) : stream_(static_cast<CUstream>(callers)), owned_(callers == nullptr) {
  if (owned_) check(driver().create_stream(&stream_, flags), "cuStreamCreate");
}

Stream::~Stream() {
  if (owned_) driver().destroy_stream(stream_);
}

Graph capture(const std::function<void(CUstream)>& work) {
  // A stream that waits for the default one cannot be captured while somebody works there, who would fail too.
  const Stream stream(nullptr, CU_STREAM_NON_BLOCKING);
  Graph graph(nullptr, [](CUgraphExec made) noexcept { driver().destroy_graph(made); });
  if (driver().begin_capture(stream, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) != CUDA_SUCCESS) return graph;
  bool whole = true;
  try {
    work(stream);
  } catch (...) {
    whole = false;  // Whatever it is, the same work tells it when it is done.
  }
  CUgraph captured = nullptr;
  if (driver().end_capture(stream, &captured) != CUDA_SUCCESS || captured == nullptr) return graph;
  CUgraphExec made = nullptr;
  if (whole && driver().instantiate(&made, captured, 0) == CUDA_SUCCESS) graph.reset(made);
  driver().destroy_captured(captured);
  return graph;
}

void launch(const Graph& graph, CUstream stream) { check(driver().launch(graph.get(), stream), "cuGraphLaunch"); }

void Buffer::reserve(std::size_t size, const std::string& what) {
  clear();
  device_ = allocate(size, what);
  check(driver().allocate_host(&host_, std::max<std::size_t>(size, 1)), "cuMemAllocHost");
  size_ = size;
}

void Buffer::clear() noexcept {
  if (device_ != 0) driver().free(device_);
  if (host_ != nullptr) driver().free_host(host_);
  device_ = 0, host_ = nullptr, size_ = 0;
}

}  // namespace gantk::tensorrt

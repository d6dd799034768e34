// SPDX-License-Identifier: Apache-2.0
#include "cuda.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <vector>

#include "gantk/error.hpp"
#include "symbol.hpp"
#include "text.hpp"

struct CUctx_st;
struct CUgraph_st;
struct CUgraphNode_st;

namespace gantk::cuda {
namespace {

// As cuda.h has them, whose macros give some functions another name than their documentation.
using Status = int;
using Context = ::CUctx_st*;
using EventHandle = ::CUevent_st*;
using Captured = ::CUgraph_st*;
using Executable = ::CUgraphExec_st*;
using Node = ::CUgraphNode_st*;
constexpr Status success = 0;
constexpr int compute_capability_major = 75, compute_capability_minor = 76;
constexpr unsigned non_blocking = 1;    // of streams
constexpr unsigned without_timing = 2;  // of events
constexpr int thread_local_capture = 1;
enum MemoryType : int { in_main_memory = 1, in_gpu_memory = 2, in_an_array = 3, anywhere = 4 };
constexpr int attribute_memory_type = 2;  // of pointers

// Of nodes that only compute, order or copy.
enum NodeType : int { kernel = 0, copy = 1, fill = 2, empty = 5, wait = 6, record = 7, take = 10, give_back = 11 };

// One side of a copy, and CUDA_MEMCPY3D.
struct Side {
  std::size_t x, y, z, level;
  int type;
  const void* host;
  Address device;
  void *array, *reserved;
  std::size_t pitch, height;
};
struct Copy {
  Side source, target;
  std::size_t width, height, depth;
};

// A function of the driver's library.
template <class... Arguments>
class Function {
 public:
  explicit Function(const char* name) {
    static void* const library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library != nullptr) function_ = symbol<Status(Arguments...)>(library, name);
    if (function_ == nullptr) {
      throw Error(std::string("the NVIDIA driver is too old: it has no ") + name, "libcuda.so.1",
                  "install a later NVIDIA driver");
    }
  }
  Status operator()(Arguments... arguments) const noexcept { return function_(arguments...); }

 private:
  Status (*function_)(Arguments...) = nullptr;
};

struct Driver {
  Function<Status, const char**> error_name{"cuGetErrorName"};
  Function<int*, int> device{"cuDeviceGet"};
  Function<int*, int, int> attribute{"cuDeviceGetAttribute"};
  Function<char*, int, int> name{"cuDeviceGetName"};
  Function<Context*, int> retain{"cuDevicePrimaryCtxRetain"};
  Function<Context> push{"cuCtxPushCurrent_v2"};
  Function<Context*> pop{"cuCtxPopCurrent_v2"};
  Function<std::size_t*, std::size_t*> memory{"cuMemGetInfo_v2"};
  Function<Address*, std::size_t> allocate{"cuMemAlloc_v2"};
  Function<Address> free{"cuMemFree_v2"};
  Function<void**, std::size_t> allocate_host{"cuMemAllocHost_v2"};
  Function<void*> free_host{"cuMemFreeHost"};
  Function<Address, const void*, std::size_t, StreamHandle> copy_in{"cuMemcpyHtoDAsync_v2"};
  Function<void*, Address, std::size_t, StreamHandle> copy_out{"cuMemcpyDtoHAsync_v2"};
  Function<StreamHandle*, unsigned> create_stream{"cuStreamCreate"};
  Function<StreamHandle> destroy_stream{"cuStreamDestroy_v2"};
  Function<StreamHandle> synchronize{"cuStreamSynchronize"};
  Function<EventHandle*, unsigned> create_event{"cuEventCreate"};
  Function<EventHandle, StreamHandle> record{"cuEventRecord"};
  Function<StreamHandle, EventHandle, unsigned> wait{"cuStreamWaitEvent"};
  Function<EventHandle> wait_for_event{"cuEventSynchronize"};
  Function<EventHandle> destroy_event{"cuEventDestroy_v2"};
  Function<StreamHandle, int> begin_capture{"cuStreamBeginCapture_v2"};
  Function<StreamHandle, Captured*> end_capture{"cuStreamEndCapture"};
  Function<Executable*, Captured, unsigned long long> instantiate{"cuGraphInstantiateWithFlags"};
  Function<Executable, StreamHandle> launch{"cuGraphLaunch"};
  Function<Captured> destroy_captured{"cuGraphDestroy"};
  Function<Captured, Node*, std::size_t*> nodes{"cuGraphGetNodes"};
  Function<Node, int*> node_type{"cuGraphNodeGetType"};
  Function<Node, Copy*> copy_of{"cuGraphMemcpyNodeGetParams"};
  Function<void*, int, Address> pointer_attribute{"cuPointerGetAttribute"};
  Function<Executable> destroy_graph{"cuGraphExecDestroy"};
};

const Driver& driver() {
  static const auto& loaded = *new Driver();
  return loaded;
}

std::string status_name(Status status) {
  const char* name = nullptr;
  return driver().error_name(status, &name) == success && name != nullptr ? name : std::to_string(status);
}

void check(Status status, const char* call) {
  if (status != success) throw Error(std::string("CUDA's ") + call + " failed: " + status_name(status), call);
}

int first_gpu() {
  int gpu = 0;
  check(driver().device(&gpu, 0), "cuDeviceGet");
  return gpu;
}

bool is_on_gpu(const Side& side) {
  if (side.type != anywhere) return side.type != in_main_memory;
  int type = 0;
  return driver().pointer_attribute(&type, attribute_memory_type, side.device) == success && type == in_gpu_memory;
}

using IsKept = std::function<bool(const void*)>;

bool repeats_itself(Node node, const IsKept& is_kept) {
  int type = 0;
  Copy found{};
  if (driver().node_type(node, &type) != success) return false;
  switch (type) {
    case kernel:
    case fill:
    case empty:
    case wait:
    case record:
    case take:
    case give_back: return true;
    case copy: break;
    default: return false;
  }
  if (driver().copy_of(node, &found) != success) return false;
  const Side& source = found.source;
  const void* from = source.type == anywhere ? reinterpret_cast<const void*>(source.device) : source.host;
  return is_on_gpu(source) || is_kept(from);
}

bool repeats_itself(Captured graph, const IsKept& is_kept) {
  std::size_t count = 0;
  if (driver().nodes(graph, nullptr, &count) != success) return false;
  std::vector<Node> nodes(count);
  if (count > 0 && driver().nodes(graph, nodes.data(), &count) != success) return false;
  return std::all_of(nodes.begin(), nodes.end(), [&](Node node) { return repeats_itself(node, is_kept); });
}

// Kept for the whole process, as CUDA's runtime keeps it.
Context primary_context() {
  static const Context kept = [] {
    Context context = nullptr;
    check(driver().retain(&context, first_gpu()), "cuDevicePrimaryCtxRetain");
    return context;
  }();
  return kept;
}

}  // namespace

std::string gpu_target() {
  int major = 0, minor = 0;
  const int gpu = first_gpu();
  check(driver().attribute(&major, compute_capability_major, gpu), "cuDeviceGetAttribute");
  check(driver().attribute(&minor, compute_capability_minor, gpu), "cuDeviceGetAttribute");
  return "sm_" + std::to_string(major) + std::to_string(minor);
}

std::string gpu_name() {
  std::array<char, 256> name{};
  check(driver().name(name.data(), static_cast<int>(name.size()), first_gpu()), "cuDeviceGetName");
  return name.data();
}

Current::Current() { check(driver().push(primary_context()), "cuCtxPushCurrent"); }

Current::~Current() {
  Context popped = nullptr;
  driver().pop(&popped);
}

Address allocate(std::size_t size, const std::string& what) {
  Address memory = 0;
  const Status status = driver().allocate(&memory, std::max<std::size_t>(size, 1));
  if (status == success) return memory;
  std::size_t free = 0, total = 0;
  check(driver().memory(&free, &total), "cuMemGetInfo");
  const auto mib = [](std::size_t bytes) {
    return formatted(static_cast<double>(bytes) / (1 << 20), 1, std::chars_format::fixed);
  };
  throw Error(what + " wants " + mib(size) + " MiB of GPU memory (" + status_name(status) + "); " + mib(free) + " of " +
                  mib(total) + " MiB are free",
              what, "end what else uses the GPU, or give smaller pictures");
}

void copy_in(Address target, const void* source, std::size_t size, StreamHandle stream) {
  check(driver().copy_in(target, source, size, stream), "cuMemcpyHtoDAsync");
}

void copy_out(void* target, Address source, std::size_t size, StreamHandle stream) {
  check(driver().copy_out(target, source, size, stream), "cuMemcpyDtoHAsync");
}

void synchronize(StreamHandle stream) { check(driver().synchronize(stream), "cuStreamSynchronize"); }

void release(void* memory) noexcept {
  try {
    const Current current;
    driver().free(reinterpret_cast<Address>(memory));
  } catch (const Error&) {
  }
}

Tensor make_tensor(DType dtype, const Shape& shape, const std::string& what) {
  MutableTensorView view(nullptr, dtype, shape, Device::cuda);
  view.data = reinterpret_cast<void*>(allocate(view.size_bytes(), what));
  return Tensor(view, release);
}

Stream::Stream(void* callers, Kind kind) : stream_(static_cast<StreamHandle>(callers)), owned_(callers == nullptr) {
  if (owned_)
    check(driver().create_stream(&stream_, kind == Kind::waits_for_none ? non_blocking : 0), "cuStreamCreate");
}

Stream::~Stream() {
  if (owned_) driver().destroy_stream(stream_);
}

Event::Event() { check(driver().create_event(&event_, without_timing), "cuEventCreate"); }

Event::~Event() { driver().destroy_event(event_); }

void Event::record(StreamHandle stream) const { check(driver().record(event_, stream), "cuEventRecord"); }

void Event::hold(StreamHandle next) const { check(driver().wait(next, event_, 0), "cuStreamWaitEvent"); }

void Event::wait() const { check(driver().wait_for_event(event_), "cuEventSynchronize"); }

void Order::keep(StreamHandle first, StreamHandle next) const {
  event_.record(first);
  event_.hold(next);
}

Graph capture(StreamHandle stream, const std::function<void()>& work, const IsKept& is_kept) {
  Graph graph(nullptr, [](Executable made) noexcept { driver().destroy_graph(made); });
  if (driver().begin_capture(stream, thread_local_capture) != success) return graph;
  bool whole = true;
  try {
    work();
  } catch (...) {
    whole = false;  // Whatever it is, the same work tells it when it is done.
  }
  Captured captured = nullptr;
  if (driver().end_capture(stream, &captured) != success || captured == nullptr) return graph;
  Executable made = nullptr;
  whole = whole && (is_kept == nullptr || repeats_itself(captured, is_kept));
  if (whole && driver().instantiate(&made, captured, 0) == success) graph.reset(made);
  driver().destroy_captured(captured);
  return graph;
}

void launch(const Graph& graph, StreamHandle stream) { check(driver().launch(graph.get(), stream), "cuGraphLaunch"); }

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

}  // namespace gantk::cuda

// SPDX-License-Identifier: Apache-2.0
// A libcuda.so.1 whose streams do nothing until they are waited for, so that whoever does not wait gets nothing. It
// tells on standard output what it is asked to do, and fails in the function that the environment names. As the real one
// it refuses calls without a current context, and what a capture forbids; where that one is undefined, it ends.
#include "driver.hpp"

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>

struct CUctx_st {};
struct CUgraphNode_st {
  std::function<void()> job;
  CUgraphNodeType type = CU_GRAPH_NODE_TYPE_KERNEL;
  CUDA_MEMCPY3D copy = {};
  std::function<void()> queued = [] {};
};
using Work = std::deque<CUgraphNode_st>;

struct CUstream_st {
  bool waits_for_others;
  Work queue = {};
  Work* captured = nullptr;  // what it was given since a capture began
  bool is_spoilt = false;    // whether the capture came to nothing
};
struct CUevent_st {
  CUstream stream = nullptr;
  std::shared_ptr<bool> is_reached = {};
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

namespace {

std::recursive_mutex mutex;  // Of all that follows: threads are let in one by one.
using Lock = std::lock_guard<std::recursive_mutex>;

std::set<const void*> live;                            // What was handed out and is to be given back.
std::set<CUstream>& ending = *new std::set<CUstream>;  // Streams that were given back, and have work left.

CUctx_st primary;
thread_local int context_depth = 0;             // how often this thread has made the one context current
thread_local CUstream captured_here = nullptr;  // by this thread

// Null names the default one.
CUstream stream_of(CUstream given) {
  static CUstream_st default_stream{false};
  if (given == nullptr || given == &default_stream) return &default_stream;
  if (live.contains(given)) return given;
  std::fprintf(stderr, "the stream is gone\n");
  std::abort();
}

void step(CUstream stream) {
  const auto next = std::move(stream->queue.front());
  stream->queue.pop_front();
  next.job();
  if (stream->queue.empty() && ending.erase(stream) > 0) delete stream;
}

// Of calls that want a context; and of those that no capture of their thread survives.
CUresult in_context() { return context_depth == 0 ? CUDA_ERROR_INVALID_CONTEXT : CUDA_SUCCESS; }
CUresult apart_from_captures() {
  if (captured_here == nullptr) return in_context();
  captured_here->is_spoilt = true;
  return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
}

CUresult tell(const char* function) {
  const char* given = std::getenv("STAND_IN_FAULT");
  const std::string faulty = given == nullptr ? "" : given;
  if (faulty == "killed in " + std::string(function)) std::raise(SIGKILL);
  const bool fails = faulty == function;
  std::printf("  %s%s\n", function, fails ? " fails" : "");
  return fails ? CUDA_ERROR_UNKNOWN : CUDA_SUCCESS;
}

template <class Made>
Made* made(Made* object) {
  const Lock lock(mutex);
  live.insert(object);
  return object;
}

template <class Made>
CUresult end(Made* object) {
  const Lock lock(mutex);
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  if (live.erase(object) == 0) return CUDA_ERROR_INVALID_VALUE;
  delete object;
  return CUDA_SUCCESS;
}

template <class Address>
CUresult make_memory(Address* memory, std::size_t size) {
  if (const CUresult status = apart_from_captures(); status != CUDA_SUCCESS) return status;
  constexpr std::size_t alignment = 512;  // A size is a multiple of it too.
  void* block = std::aligned_alloc(alignment, (size + alignment - 1) / alignment * alignment);
  return std::memcpy(memory, &block, sizeof block), made(block), CUDA_SUCCESS;
}

CUresult end_memory(void* memory) {
  const Lock lock(mutex);
  if (const CUresult status = apart_from_captures(); status != CUDA_SUCCESS) return status;
  if (live.erase(memory) == 0) return CUDA_ERROR_INVALID_VALUE;
  return std::free(memory), CUDA_SUCCESS;
}

CUresult add(CUstream given, CUgraphNode_st work) {
  const Lock lock(mutex);
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  const CUstream stream = stream_of(given);
  if (stream->is_spoilt) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  if (stream->captured == nullptr) work.queued();
  (stream->captured != nullptr ? *stream->captured : stream->queue).push_back(std::move(work));
  return CUDA_SUCCESS;
}

CUresult copy(void* target, const void* source, std::size_t size, CUstream stream, const char* function) {
  const CUresult status = tell(function);
  if (status != CUDA_SUCCESS) return status;
  CUgraphNode_st node{[=] { std::memcpy(target, source, size); }, CU_GRAPH_NODE_TYPE_MEMCPY};
  // Of what is copied here nothing is said, which has to be asked of the pointer.
  node.copy.srcMemoryType =
      std::strcmp(function, "cuMemcpyHtoDAsync") == 0 ? CU_MEMORYTYPE_HOST : CU_MEMORYTYPE_UNIFIED;
  node.copy.srcHost = source;
  node.copy.srcDevice = reinterpret_cast<CUdeviceptr>(source);
  return add(stream, std::move(node));
}

}  // namespace

extern "C" {

CUresult cuInit(unsigned) {
  std::setvbuf(stdout, nullptr, _IOLBF, 0);  // So that a process that is still there has told all.
  return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult, const char** name) { return *name = "CUDA_ERROR_OF_THE_STAND_IN", CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice* device, int) { return *device = 0, CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute which, CUdevice) {
  return *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8 : 9, CUDA_SUCCESS;
}
CUresult cuDeviceGetName(char* name, int size, CUdevice) {
  return std::snprintf(name, static_cast<std::size_t>(size), "Stand-in (TM) 40"), CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) {
  return *context = &primary, CUDA_SUCCESS;
}
CUresult cuCtxPushCurrent(CUcontext context) {
  if (context != &primary) return CUDA_ERROR_INVALID_CONTEXT;
  return ++context_depth, CUDA_SUCCESS;
}
CUresult cuCtxPopCurrent(CUcontext* context) {
  if (context_depth == 0) return CUDA_ERROR_INVALID_CONTEXT;
  return --context_depth, *context = &primary, CUDA_SUCCESS;
}
CUresult cuCtxGetCurrent(CUcontext* context) {
  return *context = context_depth == 0 ? nullptr : &primary, CUDA_SUCCESS;
}
CUresult cuMemGetInfo(std::size_t* free, std::size_t* total) { return *free = *total = 0, in_context(); }

CUresult cuMemAlloc(CUdeviceptr* memory, std::size_t size) { return make_memory(memory, size); }
CUresult cuMemFree(CUdeviceptr memory) { return end_memory(reinterpret_cast<void*>(memory)); }
CUresult cuMemAllocHost(void** memory, std::size_t size) { return make_memory(memory, size); }
CUresult cuMemFreeHost(void* memory) { return end_memory(memory); }

CUresult cuMemcpyHtoDAsync(CUdeviceptr target, const void* source, std::size_t size, CUstream stream) {
  return copy(reinterpret_cast<void*>(target), source, size, stream, "cuMemcpyHtoDAsync");
}
CUresult cuMemcpyDtoHAsync(void* target, CUdeviceptr source, std::size_t size, CUstream stream) {
  return copy(target, reinterpret_cast<const void*>(source), size, stream, "cuMemcpyDtoHAsync");
}
CUresult cuLaunchHostFunc(CUstream stream, CUhostFn function, void* data) {
  return add(stream, {[=] { function(data); }, CU_GRAPH_NODE_TYPE_HOST});
}

CUresult cuStreamCreate(CUstream* stream, unsigned flags) {
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  return *stream = made(new CUstream_st{flags != CU_STREAM_NON_BLOCKING}), CUDA_SUCCESS;
}
CUresult cuStreamDestroy(CUstream stream) {
  const Lock lock(mutex);
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  if (stream_of(stream)->queue.empty()) return end(stream);
  return live.erase(stream), ending.insert(stream), CUDA_SUCCESS;
}
CUresult cuStreamSynchronize(CUstream given) {
  const Lock lock(mutex);
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  const CUstream stream = stream_of(given);
  if (stream->captured != nullptr) return stream->is_spoilt = true, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
  if (const CUresult status = tell("cuStreamSynchronize"); status != CUDA_SUCCESS) return status;
  for (const CUstream each : {stream_of(stream->waits_for_others ? nullptr : stream), stream}) {
    while (!each->queue.empty()) step(each);
  }
  return CUDA_SUCCESS;
}
CUresult cuStreamIsCapturing(CUstream stream, CUstreamCaptureStatus* status) {
  const Lock lock(mutex);
  *status = stream_of(stream)->captured == nullptr ? CU_STREAM_CAPTURE_STATUS_NONE : CU_STREAM_CAPTURE_STATUS_ACTIVE;
  return in_context();
}
CUresult cuEventCreate(CUevent* event, unsigned) {
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  return *event = made(new CUevent_st), CUDA_SUCCESS;
}
CUresult cuEventRecord(CUevent event, CUstream stream) {
  const Lock lock(mutex);
  if (const CUresult status = tell("cuEventRecord"); status != CUDA_SUCCESS) return status;
  *event = {stream_of(stream), std::make_shared<bool>(false)};
  return add(stream, {[reached = event->is_reached] { *reached = true; }});
}
CUresult cuStreamWaitEvent(CUstream stream, CUevent event, unsigned) {
  const Lock lock(mutex);
  if (const CUresult status = tell("cuStreamWaitEvent"); status != CUDA_SUCCESS) return status;
  return add(stream, {[awaited = *event] {
               while (!*awaited.is_reached) step(awaited.stream);
             }});
}
CUresult cuEventSynchronize(CUevent event) {
  const Lock lock(mutex);
  if (const CUresult status = tell("cuEventSynchronize"); status != CUDA_SUCCESS) return status;
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  while (event->is_reached != nullptr && !*event->is_reached) step(event->stream);
  return CUDA_SUCCESS;
}
CUresult cuEventDestroy(CUevent event) { return end(event); }
CUresult cuStreamBeginCapture(CUstream stream, CUstreamCaptureMode mode) {
  const Lock lock(mutex);
  // What others do meanwhile would fail, or end it.
  if (mode != CU_STREAM_CAPTURE_MODE_THREAD_LOCAL || stream_of(stream)->waits_for_others || captured_here != nullptr) {
    return CUDA_ERROR_INVALID_VALUE;
  }
  if (const CUresult status = tell("cuStreamBeginCapture"); status != CUDA_SUCCESS) return status;
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  captured_here = stream;
  stream->captured = new Work;
  return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream stream, CUgraph* graph) {
  const Lock lock(mutex);
  if (captured_here != stream) return CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD;
  captured_here = nullptr;
  const std::unique_ptr<Work> work(std::exchange(stream->captured, nullptr));
  if (const CUresult status = tell("cuStreamEndCapture"); status != CUDA_SUCCESS) return status;
  *graph = nullptr;
  if (std::exchange(stream->is_spoilt, false)) return CUDA_ERROR_STREAM_CAPTURE_INVALIDATED;
  *graph = made(new CUgraph_st{std::move(*work)});
  return CUDA_SUCCESS;
}
CUresult cuGraphInstantiateWithFlags(CUgraphExec* executable, CUgraph graph, unsigned long long) {
  if (const CUresult status = tell("cuGraphInstantiate"); status != CUDA_SUCCESS) return status;
  if (const CUresult status = in_context(); status != CUDA_SUCCESS) return status;
  *executable = made(new CUgraphExec_st{graph->work});
  return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec executable, CUstream stream) {
  const Lock lock(mutex);
  if (const CUresult status = tell("cuGraphLaunch"); status != CUDA_SUCCESS) return status;
  CUresult status = in_context();
  for (const auto& each : executable->work) status = status == CUDA_SUCCESS ? add(stream, each) : status;
  return status;
}
CUresult cuGraphGetNodes(CUgraph graph, CUgraphNode* nodes, std::size_t* count) {
  for (std::size_t i = 0; nodes != nullptr && i < *count; ++i) nodes[i] = &graph->work.at(i);
  return *count = graph->work.size(), CUDA_SUCCESS;
}
CUresult cuGraphNodeGetType(CUgraphNode node, CUgraphNodeType* type) { return *type = node->type, CUDA_SUCCESS; }
CUresult cuGraphMemcpyNodeGetParams(CUgraphNode node, CUDA_MEMCPY3D* copy) { return *copy = node->copy, CUDA_SUCCESS; }
CUresult cuPointerGetAttribute(void* value, CUpointer_attribute which, CUdeviceptr) {
  if (which != CU_POINTER_ATTRIBUTE_MEMORY_TYPE) return CUDA_ERROR_INVALID_VALUE;
  return *static_cast<CUmemorytype*>(value) = CU_MEMORYTYPE_DEVICE, CUDA_SUCCESS;
}
CUresult cuGraphDestroy(CUgraph graph) { return end(graph); }
CUresult cuGraphExecDestroy(CUgraphExec executable) { return end(executable); }

CUresult stand_in_launch(CUstream stream, CUhostFn function, void* data, CUhostFn queued) {
  CUgraphNode_st node{[=] { function(data); }};
  if (queued != nullptr) node.queued = [=] { queued(data); };
  return add(stream, std::move(node));
}
std::size_t stand_in_live() {
  const Lock lock(mutex);
  return live.size();
}

void stand_in_meet() {
  static std::mutex here;
  static std::condition_variable all_are_here;
  static int missing = std::getenv("STAND_IN_TOGETHER") == nullptr ? 0 : std::atoi(std::getenv("STAND_IN_TOGETHER"));
  std::unique_lock lock(here);
  if (missing > 0 && --missing == 0) all_are_here.notify_all();
  if (all_are_here.wait_for(lock, std::chrono::seconds(5), [] { return missing <= 0; })) return;
  missing = 0;
  std::printf("  others did not come\n");
}

}  // extern "C"

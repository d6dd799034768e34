// SPDX-License-Identifier: Apache-2.0
// What runs in the stand-in for a TensorRT product: latent: float32[N x 4] -> picture: float32[N x 3 x 8 x 8], each pixel
// its index and the sum of the sample's latent vector; and the kernels that are compiled for that.
#pragma once

#include <NvInferRuntime.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <list>
#include <mutex>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>

#include "../gpu/driver.hpp"

namespace gantk::testing {

using namespace nvinfer1;

constexpr std::int64_t latent_size = 4, pixels = 3 * 8 * 8;

// What a run holds between its layers: none for one sample.
inline std::int64_t scratch_bytes(std::int64_t batch) { return (batch - 1) << 20; }

// Whether a function is to fail.
inline bool is_faulty(const char* function) {
  const char* fault = std::getenv("STAND_IN_FAULT");
  return fault != nullptr && std::strcmp(fault, function) == 0;
}

// The product survives none of these.
inline void end_unless(bool is_so, const char* what) {
  if (is_so) return;
  std::fprintf(stderr, "%s\n", what);
  std::abort();
}

inline bool has_current_context() {
  CUcontext context = nullptr;
  return cuCtxGetCurrent(&context) == CUDA_SUCCESS && context != nullptr;
}

struct Run {
  const float* latent;
  float* picture;
  std::int64_t batch;
  char* scratch;
  std::atomic<int>& under_way;  // of its context
};

inline void begin(void* given) { ++static_cast<Run*>(given)->under_way; }

inline void compute(void* given) {
  const Run& run = *static_cast<Run*>(given);
  --run.under_way;
  if (run.batch > 1) run.scratch[0] = run.scratch[scratch_bytes(run.batch) - 1] = 1;
  for (std::int64_t i = 0; i < run.batch * pixels; ++i) {
    const float* latent = run.latent + i / pixels * latent_size;
    run.picture[i] = std::accumulate(latent, latent + latent_size, static_cast<float>(i % pixels));
  }
}

// The numbers of samples that one serves.
struct Range {
  std::int64_t first, last;
};

// Those of a plan, e.g. "engine 1-2 3-4"; "engine" serves up to 4 samples.
inline std::vector<Range> profiles_of(std::string_view plan) {
  std::vector<Range> profiles;
  for (std::size_t at = plan.find('-'); at != plan.npos; at = plan.find('-', at + 1)) {
    profiles.push_back({plan[at - 1] - '0', plan[at + 1] - '0'});
  }
  return profiles.empty() ? std::vector<Range>{{1, 4}} : profiles;
}

// Kernels are "k", for each batch the number as a digit, and "!".
class Kernels : public IRuntimeCache {
 public:
  class Blob : public IHostMemory {
   public:
    explicit Blob(std::string bytes) : bytes_(std::move(bytes)) {}
    void* data() const noexcept override { return const_cast<char*>(bytes_.data()); }
    std::size_t size() const noexcept override { return bytes_.size(); }

   private:
    std::string bytes_;
  };

  IHostMemory* serialize() const noexcept override {
    const std::lock_guard lock(mutex_);
    return new Blob("k" + batches_ + "!");
  }
  bool deserialize(const void* blob, std::size_t size) noexcept override {
    const std::string_view bytes(static_cast<const char*>(blob), size);
    std::printf("  deserialize %.*s\n", static_cast<int>(size), bytes.data());
    if (!bytes.starts_with('k') || !bytes.ends_with('!') || is_faulty("deserialize")) return false;
    batches_ = bytes.substr(1, size - 2);
    return true;
  }

  // Each is compiled once.
  void want(std::int64_t batch) const {
    const std::lock_guard lock(mutex_);
    const char digit = static_cast<char>('0' + batch);
    if (batches_.find(digit) != batches_.npos) return;
    std::printf("  compiles for batch %c\n", digit);
    batches_ += digit;
  }

 private:
  mutable std::mutex mutex_;  // Contexts of several threads share them.
  mutable std::string batches_;
};

class Context : public IExecutionContext {
 public:
  Context(ILogger& logger, const std::vector<Range>& profiles, std::atomic<int>& count, const Kernels* kernels)
      : logger_(logger), profiles_(profiles), count_(count), kernels_(kernels) {
    ++count_;
  }
  ~Context() override {
    end_unless(has_current_context(), "a context ends while none of CUDA's is current");
    end_unless(under_way_ == 0, "a context ends while a run of it is under way");
    --count_;
  }

  bool setOptimizationProfileAsync(std::int32_t index, cudaStream_t) noexcept override {
    end_unless(under_way_ == 0, "setOptimizationProfileAsync while a run is under way");
    if (index < 0 || index >= static_cast<std::int32_t>(profiles_.size())) return refuse("there is no such profile");
    std::printf("  profile %d\n", index);
    profile_ = &profiles_[static_cast<std::size_t>(index)];
    batch_ = -1, latent_ = nullptr, picture_ = nullptr;
    return true;
  }
  bool setInputShape(const char* name, const Dims& dims) noexcept override {
    end_unless(under_way_ == 0, "setInputShape while a run is under way");
    if (std::strcmp(name, "latent") != 0) return refuse("there is no such input");
    if (profile_ == nullptr) return refuse("there is no profile yet");
    if (dims.nbDims != 2 || dims.d[1] != latent_size) return refuse("the input has other axes");
    if (dims.d[0] < profile_->first || dims.d[0] > profile_->last) return refuse("the profile serves other shapes");
    batch_ = dims.d[0];
    return true;
  }
  Dims getTensorShape(const char* name) const noexcept override {
    if (std::strcmp(name, "latent") == 0) return {2, {batch_, latent_size}};
    if (std::strcmp(name, "picture") == 0) return {4, {batch_, 3, 8, 8}};
    return {-1, {}};
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    if (reinterpret_cast<std::uintptr_t>(data) % 256 != 0) return refuse("the address is not aligned");
    if (std::strcmp(name, "latent") == 0) latent_ = static_cast<const float*>(data);
    else if (std::strcmp(name, "picture") == 0) picture_ = static_cast<float*>(data);
    else return refuse("there is no such tensor");
    return true;
  }
  std::size_t updateDeviceMemorySizeForShapes() noexcept override {
    end_unless(under_way_ == 0, "updateDeviceMemorySizeForShapes while a run is under way");
    if (batch_ > 0 && !is_faulty("updateDeviceMemorySizeForShapes")) {
      return static_cast<std::size_t>(scratch_bytes(batch_));
    }
    return refuse("it is not known how much memory is wanted"), 0;
  }
  // What it had is there until it has another.
  void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept override {
    end_unless(under_way_ == 0, "setDeviceMemoryV2 while a run is under way");
    if (memory_ != nullptr) [[maybe_unused]] const volatile char was = *memory_;
    const bool is_good = memory != nullptr && reinterpret_cast<std::uintptr_t>(memory) % 512 == 0;
    if (!is_good || size < scratch_bytes(batch_) || is_faulty("setDeviceMemoryV2")) {
      refuse("such memory cannot be used");
    } else {
      memory_ = static_cast<char*>(memory), memory_bytes_ = size;
    }
  }
  bool enqueueV3(cudaStream_t stream) noexcept override {
    CUstreamCaptureStatus status = CU_STREAM_CAPTURE_STATUS_NONE;
    if (cuStreamIsCapturing(stream, &status) != CUDA_SUCCESS) return refuse("there is no stream");
    const bool is_captured = status != CU_STREAM_CAPTURE_STATUS_NONE;
    std::printf("  enqueueV3%s\n", is_captured ? ", captured" : "");
    // A capture begins when what a context does in its first run has been done.
    const bool is_ready = !is_captured || (!runs_.empty() && under_way_ == 0);
    const bool is_refused = is_captured && is_faulty("enqueueV3");
    if (batch_ < 0 || latent_ == nullptr || picture_ == nullptr || !has_memory() || !is_ready || is_refused) {
      return refuse("the stand-in does not run");
    }
    if (!is_captured) stand_in_meet();
    if (kernels_ != nullptr) kernels_->want(batch_);
    runs_.push_back({latent_, picture_, batch_, memory_, under_way_});
    return stand_in_launch(stream, compute, &runs_.back(), begin) == CUDA_SUCCESS;
  }
#ifdef TRT_MAJOR_RTX
  bool isStreamCapturable(cudaStream_t) const noexcept override { return !is_faulty("isStreamCapturable"); }
#endif

 private:
  bool refuse(const char* why) const {
    logger_.log(ILogger::Severity::kERROR, why);
    return false;
  }
  bool has_memory() const { return memory_ != nullptr && memory_bytes_ >= scratch_bytes(batch_); }

  ILogger& logger_;
  const std::vector<Range>& profiles_;
  std::atomic<int>& count_;
  const Kernels* kernels_;
  const Range* profile_ = nullptr;
  std::int64_t batch_ = -1;
  const float* latent_ = nullptr;
  float* picture_ = nullptr;
  char* memory_ = nullptr;
  std::int64_t memory_bytes_ = 0;
  std::list<Run> runs_;  // A graph may do any of them again.
  std::atomic<int> under_way_ = 0;
};

}  // namespace gantk::testing

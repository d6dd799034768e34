// SPDX-License-Identifier: Apache-2.0
// What programs give a network whose every pixel is its index and the sum of the latent vector, and the stand-in for
// the driver, whose GPU memory is memory.
#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <new>
#include <vector>

#include "driver.hpp"
#include "gantk/runner.hpp"

namespace gantk::testing {

inline constexpr std::int64_t latent_size = 4, pixels = 3 * 8 * 8;

// Memory that begins as CUDA's does.
template <class T>
struct Aligned {
  using value_type = T;
  static constexpr std::align_val_t alignment{512};
  T* allocate(std::size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), alignment)); }
  void deallocate(T* memory, std::size_t) { ::operator delete(memory, alignment); }
  friend bool operator==(Aligned, Aligned) { return true; }
};

using Floats = std::vector<float, Aligned<float>>;

// What an application does with the stand-in for the driver. The context is current only while it calls it, so that
// whoever calls it without one is found out.
class Driver {
 public:
  CUstream make_stream() const {
    CUstream stream = nullptr;
    in_context([&] { create_(&stream, CU_STREAM_NON_BLOCKING); });
    return stream;
  }
  void destroy(CUstream stream) const {
    in_context([&] { destroy_(stream); });
  }
  void wait(CUstream stream) const {
    in_context([&] { wait_(stream); });
  }

  // Doubles a value when the stream comes to it.
  void double_on(CUstream stream, float& value) const {
    in_context([&] { launch_(stream, [](void* given) { *static_cast<float*>(given) *= 2; }, &value, nullptr); });
  }

  std::size_t live() const { return live_(); }

 private:
  template <class Function>
  Function* find(const char* name) const {
    return reinterpret_cast<Function*>(::dlsym(library_, name));
  }
  template <class Call>
  void in_context(Call call) const {
    CUcontext context = nullptr;
    retain_(&context, 0);
    push_(context);
    call();
    pop_(&context);
  }

  void* library_ = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
  decltype(&cuDevicePrimaryCtxRetain) retain_ = find<decltype(cuDevicePrimaryCtxRetain)>("cuDevicePrimaryCtxRetain");
  decltype(&cuCtxPushCurrent) push_ = find<decltype(cuCtxPushCurrent)>("cuCtxPushCurrent_v2");
  decltype(&cuCtxPopCurrent) pop_ = find<decltype(cuCtxPopCurrent)>("cuCtxPopCurrent_v2");
  decltype(&cuStreamCreate) create_ = find<decltype(cuStreamCreate)>("cuStreamCreate");
  decltype(&cuStreamDestroy) destroy_ = find<decltype(cuStreamDestroy)>("cuStreamDestroy_v2");
  decltype(&cuStreamSynchronize) wait_ = find<decltype(cuStreamSynchronize)>("cuStreamSynchronize");
  decltype(&stand_in_launch) launch_ = find<decltype(stand_in_launch)>("stand_in_launch");
  decltype(&stand_in_live) live_ = find<decltype(stand_in_live)>("stand_in_live");
};

// Whether each pixel is its index and the sum of its latent vector.
inline bool is_right(const Floats& latent, const float* picture) {
  bool right = true;
  for (std::size_t i = 0; i < latent.size() / latent_size * pixels; ++i) {
    float wanted = static_cast<float>(i % pixels);
    for (std::size_t j = 0; j < latent_size; ++j) wanted += latent[i / pixels * latent_size + j];
    right = right && picture[i] == wanted;
  }
  return right;
}

inline void tell_memory(const gantk::Runner& runner) {
  const auto held = runner.memory_bytes();
  if (held) std::printf("  holds %zu + %zu + %zu bytes\n", held->engine, held->activations, held->buffers);
  else std::printf("  does not tell what it holds\n");
}

struct Arrays {
  Arrays(std::int64_t count, float first) : batch(count), latent(count * latent_size), picture(count * pixels) {
    for (std::size_t i = 0; i < latent.size(); ++i) latent[i] = first + static_cast<float>(i);
  }
  gantk::Feed feed(gantk::Device device = gantk::Device::cpu) const {
    return {"latent", {latent.data(), gantk::DType::float32, {batch, latent_size}, device}};
  }
  gantk::Target target(gantk::Device device = gantk::Device::cpu) {
    return {"picture", {picture.data(), gantk::DType::float32, {batch, 3, 8, 8}, device}};
  }

  std::int64_t batch;
  Floats latent, picture;
};

}  // namespace gantk::testing

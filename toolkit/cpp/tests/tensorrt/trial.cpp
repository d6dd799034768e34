// SPDX-License-Identifier: Apache-2.0
// Runs of an engine of the stand-in, whose library and driver tell what is asked of them between the lines of this.
//
//   gantk_tensorrt_trial BACKEND_LIBRARY BACKEND BUNDLE
#include <cuda.h>
#include <dlfcn.h>

#include <cstdio>
#include <optional>
#include <vector>

#include "gantk/backend.hpp"
#include "gantk/runner.hpp"

namespace {

constexpr std::int64_t latent_size = 4, pixels = 3 * 8 * 8;

void say(const char* what) { std::printf("%s\n", what); }

// Whether each pixel is its index and the sum of its latent vector.
void judge(const std::vector<float>& latent, const float* picture) {
  bool right = true;
  for (std::size_t i = 0; i < latent.size() / latent_size * pixels; ++i) {
    float wanted = static_cast<float>(i % pixels);
    for (std::size_t j = 0; j < latent_size; ++j) wanted += latent[i / pixels * latent_size + j];
    right = right && picture[i] == wanted;
  }
  say(right ? "right" : "wrong");
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
  std::vector<float> latent, picture;
};

// From main memory and back.
void in_main_memory(const gantk::Options& options, const char* bundle) {
  std::optional<gantk::Runner> runner = gantk::Runner::open(bundle, options);
  Arrays one(2, 1), other(3, 5);
  say("bind");
  gantk::Bound bound = runner->bind({one.feed()}, {one.target()});
  judge(one.latent, one.picture.data());
  one.latent[3] = 100;
  say("bound run");
  bound.run();
  judge(one.latent, one.picture.data());
  say("run of another shape");
  runner->run({other.feed()}, {other.target()});
  judge(other.latent, other.picture.data());
  runner.reset();
  one.latent[3] = 200;
  say("bound run without its runner");
  bound.run();
  judge(one.latent, one.picture.data());
}

// From GPU memory, which here is memory, to GPU memory, on a stream of the caller's.
void on_a_stream(gantk::Options options, const char* bundle, CUstream stream, decltype(&cuStreamSynchronize) wait) {
  options.stream = stream;
  const auto runner = gantk::Runner::open(bundle, options);
  Arrays arrays(1, 3);
  say("bind on a stream");
  gantk::Bound bound = runner.bind({arrays.feed(gantk::Device::cuda)}, {arrays.target(gantk::Device::cuda)});
  arrays.latent[0] = 7;
  say("bound run on it");
  bound.run();
  judge(arrays.latent, arrays.picture.data());  // It was queued, and not waited for.
  wait(stream);
  judge(arrays.latent, arrays.picture.data());
  say("bind to arrays of the runner's");
  gantk::Bound fresh = runner.bind({arrays.feed(gantk::Device::cuda)});
  arrays.latent[0] = 9;
  fresh.run();
  wait(stream);
  const gantk::TensorView made = fresh.outputs()["picture"].view();
  say(made.device == gantk::Device::cuda ? "on the GPU" : "not on the GPU");
  judge(arrays.latent, static_cast<const float*>(made.data));
}

}  // namespace

int main(int, char** words) {
  try {
    gantk::load_backend(words[1]);
    void* driver = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const auto find = [&](const char* name) { return ::dlsym(driver, name); };
    const auto create = reinterpret_cast<decltype(&cuStreamCreate)>(find("cuStreamCreate"));
    const auto destroy = reinterpret_cast<decltype(&cuStreamDestroy)>(find("cuStreamDestroy_v2"));
    const auto wait = reinterpret_cast<decltype(&cuStreamSynchronize)>(find("cuStreamSynchronize"));
    const auto live = reinterpret_cast<std::size_t (*)()>(find("stand_in_live"));
    const gantk::Options options{.backend = words[2]};
    in_main_memory(options, words[3]);
    CUstream stream = nullptr;
    create(&stream, CU_STREAM_NON_BLOCKING);
    on_a_stream(options, words[3], stream, wait);
    destroy(stream);
    std::printf("%zu things were not given back\n", live());
  } catch (const gantk::Error& error) {
    std::printf("error: %s\n", error.text().c_str());
  }
}

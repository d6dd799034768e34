// SPDX-License-Identifier: Apache-2.0
// Runs of a network whose every pixel is its index and the sum of the latent vector. The stand-ins for the library and
// the driver tell what is asked of them between the lines of this.
//
//   gantk_gpu_trial BUNDLE BACKEND
#include <cstdio>
#include <optional>
#include <vector>

#include "arrays.hpp"

namespace {

using namespace gantk::testing;

void say(const char* what) { std::printf("%s\n", what); }

void judge(const Floats& latent, const float* picture) { say(is_right(latent, picture) ? "right" : "wrong"); }

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
  tell_memory(*runner);
  runner.reset();
  one.latent[3] = 200;
  say("bound run without its runner");
  bound.run();
  judge(one.latent, one.picture.data());
}

// Runs that nobody waits for: again, of another shape, to other arrays, to fresh ones.
void queue_many(const gantk::Runner& runner, const Driver& driver, CUstream stream) {
  using gantk::Device;
  Arrays one(1, 6), other(1, 7), more(3, 8);
  say("run on it, queued");
  runner.run({one.feed(Device::cuda)}, {one.target(Device::cuda)});
  say("run on it, queued behind that");
  runner.run({one.feed(Device::cuda)}, {one.target(Device::cuda)});
  say("run on it of another shape");
  runner.run({more.feed(Device::cuda)}, {more.target(Device::cuda)});
  say("run on it to other arrays");
  runner.run({other.feed(Device::cuda)}, {other.target(Device::cuda)});
  say("run on it to fresh arrays");
  const gantk::Outputs made = runner.run({other.feed(Device::cuda)});
  driver.wait(stream);
  for (const Arrays* arrays : {&one, &other, &more}) judge(arrays->latent, arrays->picture.data());
  judge(other.latent, static_cast<const float*>(made.begin()->tensor.view().data));
}

// From GPU memory, which here is memory, to GPU memory, on a stream of the caller's.
void on_a_stream(gantk::Options options, const char* bundle, const Driver& driver, CUstream stream) {
  options.stream = stream;
  std::optional<gantk::Runner> runner = gantk::Runner::open(bundle, options);
  Arrays arrays(1, 3);
  say("bind on a stream");
  std::optional<gantk::Bound> bound =
      runner->bind({arrays.feed(gantk::Device::cuda)}, {arrays.target(gantk::Device::cuda)});
  arrays.latent[1] = 7;
  driver.double_on(stream, arrays.latent[0]);
  say("bound run on it");
  bound->run();
  judge(arrays.latent, arrays.picture.data());  // It was queued, and not waited for.
  driver.wait(stream);
  judge(arrays.latent, arrays.picture.data());
  bound.reset();
  say("bind to arrays of the runner's");
  bound = runner->bind({arrays.feed(gantk::Device::cuda)});
  driver.double_on(stream, arrays.latent[0]);
  bound->run();
  driver.wait(stream);
  const gantk::TensorView made = bound->outputs()["picture"].view();
  say(made.device == gantk::Device::cuda ? "on the GPU" : "not on the GPU");
  judge(arrays.latent, static_cast<const float*>(made.data));
  bound.reset();
  say("run on it, into main memory");
  driver.double_on(stream, arrays.latent[0]);
  runner->run({arrays.feed(gantk::Device::cuda)}, {arrays.target()});
  judge(arrays.latent, arrays.picture.data());
  if (options.backend != "onnxruntime") {
    // An output that nobody asked for has a place too, which moves when it is larger.
    Arrays more(3, 1);
    say("runs on it for no output, and for a larger one");
    runner->run({arrays.feed(gantk::Device::cuda)}, {});
    runner->run({more.feed(gantk::Device::cuda)}, {});
    driver.wait(stream);
  }
  queue_many(*runner, driver, stream);
  say("run on it, and the runner is gone");
  driver.double_on(stream, arrays.latent[0]);
  runner->run({arrays.feed(gantk::Device::cuda)}, {arrays.target(gantk::Device::cuda)});
  runner.reset();
  driver.wait(stream);
  judge(arrays.latent, arrays.picture.data());
}

// What is queued on a stream goes on without it, and so do a bound run and a runner, until they end.
void after_the_stream(gantk::Options options, const char* bundle, const Driver& driver) {
  using gantk::Device;
  const CUstream stream = driver.make_stream();
  options.stream = stream;
  std::optional<gantk::Runner> runner = gantk::Runner::open(bundle, options);
  Arrays one(2, 6), other(3, 7);
  say("bind on a stream that goes");
  std::optional<gantk::Bound> bound = runner->bind({one.feed(Device::cuda)}, {one.target(Device::cuda)});
  runner->run({other.feed(Device::cuda)}, {other.target(Device::cuda)});  // The first one waits for the stream.
  driver.wait(stream);
  one.latent[0] = other.latent[0] = 9;
  say("run on it, which is gone before the runner");
  bound->run();
  runner->run({other.feed(Device::cuda)}, {other.target(Device::cuda)});
  driver.destroy(stream);
  bound.reset();
  judge(one.latent, one.picture.data());
  runner.reset();
  judge(other.latent, other.picture.data());
}

// Without a stream, where callers work on the default one: then every run is waited for.
void from_place_to_place(const gantk::Options& options, const char* bundle, const Driver& driver) {
  using gantk::Device;
  const auto runner = gantk::Runner::open(bundle, options);
  Arrays arrays(2, 4);
  for (const auto& [from, to] : {std::pair(Device::cuda, Device::cuda),
                                 {Device::cuda, Device::cpu},
                                 {Device::cpu, Device::cuda},
                                 {Device::cpu, Device::cpu}}) {
    driver.double_on(nullptr, arrays.latent[0]);
    if (from == Device::cpu) driver.wait(nullptr);  // What is here is read at once.
    std::printf("run from %s to %s\n", name_of(from).data(), name_of(to).data());
    runner.run({arrays.feed(from)}, {arrays.target(to)});
    judge(arrays.latent, arrays.picture.data());
  }
  Arrays larger(4, 1);
  say("run of a larger shape");
  runner.run({larger.feed()}, {larger.target()});
  judge(larger.latent, larger.picture.data());
  say("run into fresh arrays");
  const gantk::Outputs made = runner.run({arrays.feed()});
  judge(arrays.latent, made.begin()->tensor.values<float>().data());
}

// From and to parts of larger arrays.
void somewhere_within(const gantk::Options& options, const char* bundle) {
  const auto runner = gantk::Runner::open(bundle, options);
  for (const std::size_t skipped : {1, 4, 64}) {
    Floats latent(skipped + latent_size, 1), picture(skipped + pixels);
    const gantk::Feed feed{"latent",
                           {latent.data() + skipped, gantk::DType::float32, {1, latent_size}, gantk::Device::cuda}};
    const auto target = [&](std::size_t first) {
      return gantk::Target{"picture",
                           {picture.data() + first, gantk::DType::float32, {1, 3, 8, 8}, gantk::Device::cuda}};
    };
    for (const std::size_t first : {skipped, std::size_t{0}}) {
      try {
        std::printf("run from byte %zu to byte %zu\n", skipped * sizeof(float), first * sizeof(float));
        runner.run({feed}, {target(first)});
        say(is_right({latent.end() - latent_size, latent.end()}, picture.data() + first) ? "fits" : "wrong");
      } catch (const gantk::Error& error) {
        say(error.what());
      }
    }
  }
}

}  // namespace

int main(int, char** words) {
  try {
    const Driver driver;
    const gantk::Options options{.backend = words[2]};
    in_main_memory(options, words[1]);
    const CUstream stream = driver.make_stream();
    on_a_stream(options, words[1], driver, stream);
    driver.destroy(stream);
    after_the_stream(options, words[1], driver);
    from_place_to_place(options, words[1], driver);
    somewhere_within(options, words[1]);
    std::printf("%zu things were not given back\n", driver.live());
  } catch (const gantk::Error& error) {
    std::printf("error: %s\n", error.text().c_str());
  }
}

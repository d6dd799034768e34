// SPDX-License-Identifier: Apache-2.0
// Threads that share a runner, or open runners, at the same time. The stand-ins for the library and the driver tell
// what is asked of them between the lines of this.
//
//   gantk_gpu_threads BUNDLE BACKEND DEVICE runs|bound-runs|queued-runs|openings
#include <atomic>
#include <cstdio>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "arrays.hpp"

namespace {

using namespace gantk::testing;

constexpr int thread_count = 4, run_count = 25;

std::atomic<int> wrong{0};

void judge(const Arrays& arrays) { wrong += !is_right(arrays.latent, arrays.picture.data()); }

// What each thread does, with its number.
void in_threads(const std::function<void(int)>& work) {
  std::vector<std::thread> threads;
  for (int number = 0; number < thread_count; ++number) threads.emplace_back(work, number);
  for (std::thread& thread : threads) thread.join();
}

// What no profile serves, if there are such; a run that fails leaves what it had to others.
void refuse(const gantk::Runner& runner) {
  Arrays arrays(5, 0);
  try {
    runner.run({arrays.feed()}, {arrays.target()});
  } catch (const gantk::Error&) {
  }
}

// Shapes of their own.
void run(const gantk::Runner& runner) {
  in_threads([&](int number) {
    Arrays arrays(1 + number % 4, static_cast<float>(number));
    for (int i = 0; i < run_count; ++i) {
      arrays.latent[0] = static_cast<float>(i);
      runner.run({arrays.feed()}, {arrays.target()});
      judge(arrays);
      runner.memory_bytes();  // Beside runs, too.
    }
    refuse(runner);
  });
}

// Beside runs as any other; some end while others begin.
void run_bound(const gantk::Runner& runner) {
  in_threads([&](int number) {
    Arrays bound_to(1 + number % 4, 1), arrays(1 + number % 3, 2);
    for (int i = 0; i < run_count; ++i) {
      gantk::Bound bound = runner.bind({bound_to.feed()}, {bound_to.target()});
      arrays.latent[0] = bound_to.latent[0] = static_cast<float>(i);
      runner.run({arrays.feed()}, {arrays.target()});
      bound.run();
      judge(arrays), judge(bound_to);
    }
  });
}

// On a stream of the caller's, which all threads share.
void queue(const gantk::Runner& runner, const Driver& driver, CUstream stream) {
  in_threads([&](int number) {
    Arrays arrays(1 + number % 4, static_cast<float>(number));
    for (int i = 0; i < run_count; ++i) {
      arrays.latent[0] = static_cast<float>(i);
      runner.run({arrays.feed(gantk::Device::cuda)}, {arrays.target(gantk::Device::cuda)});
      driver.wait(stream);
      judge(arrays);
    }
  });
}

// Every other one brings operators, which here are any file.
void open(const std::string& bundle, const gantk::Options& options) {
  in_threads([&](int number) {
    gantk::Options chosen = options;
    if (number % 2 == 1) chosen.operators = bundle + "/manifest.json";
    for (int i = 0; i < 2; ++i) {
      const auto runner = gantk::Runner::open(bundle, chosen);
      Arrays arrays(2, 1);
      runner.run({arrays.feed()}, {arrays.target()});
      judge(arrays);
    }
  });
}

void share(const std::string& bundle, const std::string& what, const gantk::Options& options, const Driver& driver) {
  const auto runner = gantk::Runner::open(bundle, options);
  if (what == "runs") run(runner);
  if (what == "bound-runs") run_bound(runner);
  if (what == "queued-runs") queue(runner, driver, static_cast<CUstream>(options.stream));
  if (what == "runs") run(runner);  // By other threads, which find what those before them had.
  tell_memory(runner);
}

}  // namespace

int main(int, char** words) {
  try {
    const Driver driver;
    const std::string bundle = words[1], what = words[4];
    gantk::Options options{.backend = words[2], .device = words[3], .threads = 1};
    const CUstream stream = what == "queued-runs" ? driver.make_stream() : nullptr;
    options.stream = stream;
    if (what == "openings") open(bundle, options);
    else share(bundle, what, options, driver);
    if (stream != nullptr) driver.destroy(stream);
    std::printf("%d were wrong, %zu things were not given back\n", wrong.load(), driver.live());
  } catch (const gantk::Error& error) {
    std::printf("error: %s\n", error.text().c_str());
  }
}

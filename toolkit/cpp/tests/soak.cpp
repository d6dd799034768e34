// SPDX-License-Identifier: Apache-2.0
// Runs a bundle many times, in several threads on one runner or on one each, and says how memory grew.
//
//   gantk_soak BUNDLE RUNS THREADS shared|own      (the network takes one float32 input of two axes)
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <iostream>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "gantk/runner.hpp"

namespace {

constexpr int parts = 10;  // Memory is looked at after each.

std::size_t resident_bytes() {
  std::size_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// Runs on one input of its own, and counts results that are not those of its first run.
void work(const gantk::Runner& runner, int number, int runs, std::atomic<int>& wrong) {
  const auto& spec = runner.inputs().at(0);
  const gantk::Shape shape({1 + number % 3, std::get<std::int64_t>(spec.shape.at(1))});
  std::vector<float> input(static_cast<std::size_t>(shape.count()));
  for (std::size_t i = 0; i < input.size(); ++i) input[i] = static_cast<float>((i * 7 + number) % 11) / 5 - 1;
  const gantk::TensorView view(std::as_const(input), shape);
  const std::string name = runner.outputs().at(0).name;
  gantk::Outputs first = runner.run({{spec.name, view}});
  const gantk::TensorView wanted = first[name].view();
  gantk::Tensor memory(wanted.dtype, wanted.shape);
  for (int i = 0; i < runs; ++i) {
    runner.run({{spec.name, view}}, {{name, memory.mutable_view()}});
    wrong += std::memcmp(memory.view().data, wanted.data, wanted.size_bytes()) != 0;
  }
}

int soak(const std::string& path, int runs, int count, bool own) {
  const gantk::Options options{.backend = "onnxruntime", .threads = 1};
  std::optional<gantk::Runner> shared;
  if (!own) shared = gantk::Runner::open(path, options);
  std::atomic<int> wrong{0};
  const auto all = [&](int each) {
    std::vector<std::thread> threads;
    for (int number = 0; number < count; ++number) {
      threads.emplace_back([&, number] {
        if (own) work(gantk::Runner::open(path, options), number, each, wrong);
        else work(*shared, number, each, wrong);
      });
    }
    for (std::thread& thread : threads) thread.join();
  };
  all(runs / count / parts + 1);  // Pools fill.
  const std::size_t before = resident_bytes();
  std::size_t after = before;
  std::string resident = std::to_string(before);
  for (int part = 0; part < parts; ++part) {
    all(runs / count / parts);
    after = resident_bytes();
    resident += ", " + std::to_string(after);
  }
  std::printf("{\"runs\": %d, \"threads\": %d, \"wrong\": %d, \"grown_bytes\": %lld, \"resident_bytes\": [%s]}\n",
              runs / count / parts * parts * count, count, wrong.load(),
              static_cast<long long>(after) - static_cast<long long>(before), resident.c_str());
  return wrong == 0 ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
  if (count != 5) {
    std::cerr << "usage: gantk_soak BUNDLE RUNS THREADS shared|own\n";
    return 2;
  }
  try {
    return soak(words[1], std::stoi(words[2]), std::stoi(words[3]), std::string(words[4]) == "own");
  } catch (const gantk::Error& error) {
    std::cerr << error.text() << "\n";
    return 1;
  }
}

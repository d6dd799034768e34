// SPDX-License-Identifier: Apache-2.0
// What the runner costs over ONNX Runtime's own API, written by hand. Prints one JSON object; benchmarks/cpp_runner.py
// calls it, and says what the figures mean.
//
//   gantk_overhead calls BUNDLE CALLS AXES...             both in turns, in one process
//   gantk_overhead start gantk|bare BUNDLE FILE AXES...   one of them, from nothing to its first result
#include <onnxruntime_cxx_api.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <new>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "file.hpp"
#include "gantk/runner.hpp"
#include "onnxruntime/library.hpp"
#include "onnxruntime/types.hpp"
#include "sha256.hpp"

namespace {

std::atomic<long> allocations{0};

}  // namespace

// Every allocation through C++ is counted, those inside ONNX Runtime's library too.
// Not inlined, for GCC then warns of malloc beside delete.
[[gnu::noinline]] void* operator new(std::size_t size) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

std::size_t resident_bytes() {
  std::size_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
}

// Values that suit a network well enough to be timed: nothing that is denormal or not finite.
gantk::Tensor make_input(gantk::DType dtype, const gantk::Shape& shape) {
  gantk::Tensor tensor(dtype, shape);
  if (dtype == gantk::DType::float32) {
    auto values = tensor.values<float>();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(i * 37 % 101) / 50 - 1;
  } else {
    auto values = tensor.values<std::uint8_t>();
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<std::uint8_t>(i * 37 % 251);
  }
  return tensor;
}

gantk::Shape parse_axes(const std::vector<std::string>& words) {
  std::vector<std::int64_t> sizes;
  for (const std::string& word : words) sizes.push_back(std::stoll(word));
  return gantk::Shape(sizes);
}

// What a competent user writes: a session with one input and one output, and a call on buffers that exist.
class ByHand {
 public:
  explicit ByHand(const std::string& file)
      : env_(ORT_LOGGING_LEVEL_ERROR, "by hand"), session_(env_, file.c_str(), options()) {
    Ort::AllocatorWithDefaultOptions memory;
    input_ = session_.GetInputNameAllocated(0, memory).get();
    output_ = session_.GetOutputNameAllocated(0, memory).get();
  }

  void run(const gantk::TensorView& from, const gantk::MutableTensorView& to) {
    const char* inputs[] = {input_.c_str()};
    const char* outputs[] = {output_.c_str()};
    const Ort::Value feed = wrap(from.data, from.dtype, from.shape);
    Ort::Value result = wrap(to.data, to.dtype, to.shape);
    session_.Run(Ort::RunOptions(nullptr), inputs, &feed, 1, outputs, &result, 1);
  }

  gantk::Tensor run(const gantk::TensorView& from) {
    const char* inputs[] = {input_.c_str()};
    const char* outputs[] = {output_.c_str()};
    const Ort::Value feed = wrap(from.data, from.dtype, from.shape);
    auto results = session_.Run(Ort::RunOptions(nullptr), inputs, &feed, 1, outputs, 1);
    const auto info = results[0].GetTensorTypeAndShapeInfo();
    return gantk::Tensor(*gantk::onnxruntime::dtype_of_element(info.GetElementType()), gantk::Shape(info.GetShape()));
  }

 private:
  static Ort::SessionOptions options() {
    Ort::SessionOptions options;
    options.SetIntraOpNumThreads(1);
    return options;
  }

  Ort::Value wrap(const void* data, gantk::DType dtype, const gantk::Shape& shape) const {
    const std::size_t bytes = static_cast<std::size_t>(shape.count()) * gantk::bytes_of(dtype);
    return Ort::Value::CreateTensor(memory_, const_cast<void*>(data), bytes, shape.sizes().data(), shape.rank(),
                                    gantk::onnxruntime::element_of(dtype));
  }

  Ort::Env env_;
  Ort::Session session_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  std::string input_, output_;
};

double median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2), values.end());
  return values[values.size() / 2];
}

std::string file_of(const std::string& bundle) {
  const gantk::Bundle read = gantk::Bundle::read(bundle);
  for (const gantk::Variant& variant : read.manifest().variants) {
    if (variant.precision == "fp32" && variant.form == "plain") return read.path_of(variant.file);
  }
  throw gantk::Error("the bundle has no plain fp32 file", bundle);
}

Json compare_calls(const std::string& bundle, int calls, const gantk::Shape& shape) {
  const auto runner = gantk::Runner::open(bundle, {.backend = "onnxruntime", .form = "plain", .threads = 1});
  ByHand by_hand(file_of(bundle));
  const gantk::Tensor input = make_input(runner.inputs().at(0).dtype, shape);
  const std::string name = runner.inputs()[0].name, result = runner.outputs().at(0).name;
  gantk::Outputs made = runner.run({{name, input.view()}});
  const gantk::MutableTensorView output = made[result].mutable_view();
  const auto timed = [](auto call, long& allocated) {
    const long before = allocations;
    const auto start = Clock::now();
    call();
    const double us = us_since(start);
    allocated = allocations - before;
    return us;
  };
  const auto by_hand_call = [&] { by_hand.run(input.view(), output); };
  const auto gantk_call = [&] { runner.run({{name, input.view()}}, {{result, output}}); };
  std::vector<double> hand_us, gantk_us, own_us;
  long hand_allocations = 0, gantk_allocations = 0;
  for (int i = -10; i < calls; ++i) {
    double hand = 0, ours = 0;
    // Each goes first every other time, for the one that follows finds other caches.
    if (i % 2 == 0) hand = timed(by_hand_call, hand_allocations);
    ours = timed(gantk_call, gantk_allocations);
    if (i % 2 != 0) hand = timed(by_hand_call, hand_allocations);
    if (i < 0) continue;
    hand_us.push_back(hand), gantk_us.push_back(ours), own_us.push_back(ours - hand);
  }
  return {{"calls", calls},
          {"by_hand_us", median(hand_us)},
          {"gantk_us", median(gantk_us)},
          {"difference_us", median(own_us)},
          {"by_hand_allocations", hand_allocations},
          {"gantk_allocations", gantk_allocations}};
}

Json measure_start(const std::string& who, const std::string& bundle, const std::string& file,
                   const gantk::Shape& shape) {
  const bool is_float = shape.rank() == 2;
  const gantk::Tensor input = make_input(is_float ? gantk::DType::float32 : gantk::DType::uint8, shape);
  gantk::onnxruntime::library();  // Both want it loaded; neither is charged for it.
  const auto start = Clock::now();
  double first_us = 0;
  const auto finish = [&](auto run) {
    run();
    first_us = us_since(start);
    for (int i = 0; i < 20; ++i) run();
  };
  std::optional<gantk::Runner> runner;
  std::optional<ByHand> by_hand;
  if (who == "gantk") {
    runner = gantk::Runner::open(bundle, {.backend = "onnxruntime", .form = "plain", .threads = 1});
    const std::string name = runner->inputs().at(0).name;
    finish([&] { runner->run({{name, input.view()}}); });
  } else {
    by_hand.emplace(file);
    finish([&] { by_hand->run(input.view()); });
  }
  const std::size_t resident = resident_bytes();
  const auto hashed = Clock::now();
  gantk::Sha256 hash;
  gantk::read_bytes(file, std::int64_t{1} << 40, &hash);
  hash.hex();
  return {{"first_result_ms", first_us / 1000}, {"hash_ms", us_since(hashed) / 1000}, {"resident_bytes", resident}};
}

}  // namespace

int main(int count, char** given) {
  const std::vector<std::string> words(given + 1, given + count);
  try {
    gantk::onnxruntime::library();
    const auto axes = [&](std::size_t from) {
      return parse_axes({words.begin() + static_cast<std::ptrdiff_t>(from), words.end()});
    };
    if (words.size() > 3 && words[0] == "calls") {
      std::cout << compare_calls(words[1], std::stoi(words[2]), axes(3)) << "\n";
    } else if (words.size() > 4 && words[0] == "start") {
      std::cout << measure_start(words[1], words[2], words[3], axes(4)) << "\n";
    } else {
      std::cerr << "usage: see the source\n";
      return 2;
    }
    return 0;
  } catch (const gantk::Error& error) {
    std::cerr << error.text() << "\n";
    return 1;
  }
}

// SPDX-License-Identifier: Apache-2.0
// What the runner costs over ONNX Runtime's own API, written by hand. Prints one JSON object; benchmarks/cpp_runner.py
// calls it, and says what the figures mean.
//
//   gantk_overhead calls BUNDLE ROUNDS AXES...            both in turns, on one session
//   gantk_overhead start gantk|bare BUNDLE FILE AXES...   one of them, from nothing to its first result
#include <onnxruntime_cxx_api.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <new>
#include <optional>
#include <string>
#include <utility>
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
using Figures = std::vector<std::pair<const char*, double>>;

double us_since(Clock::time_point start) {
  return std::chrono::duration<double, std::micro>(Clock::now() - start).count();
}

// What this thread has computed, whoever else wanted the processor. The networks run in one thread, and wait for nobody.
double thread_us() {
  timespec time;
  ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return 1e6 * static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) / 1e3;
}

// ONNX Runtime's functions, but for two: both ways of calling it go through them, so that both can use the session that
// the runner made, and the time inside the vendor's `Run` can be told from the time around it.
const OrtApi* vendor = nullptr;
OrtApi watched;
OrtSession* last_session = nullptr;
double inside_us = 0;

OrtStatus* ORT_API_CALL create_session(const OrtEnv* env, const void* data, size_t size,
                                       const OrtSessionOptions* options, OrtSession** session) noexcept {
  OrtStatus* status = vendor->CreateSessionFromArray(env, data, size, options, session);
  last_session = *session;
  return status;
}

OrtStatus* ORT_API_CALL run_session(OrtSession* session, const OrtRunOptions* options, const char* const* inputs,
                                    const OrtValue* const* feeds, size_t feed_count, const char* const* outputs,
                                    size_t output_count, OrtValue** results) noexcept {
  const auto start = Clock::now();
  OrtStatus* status =
      vendor->Run(session, options, inputs, feeds, feed_count, outputs, output_count, results);
  inside_us = us_since(start);
  return status;
}

void watch_vendor() {
  vendor = &Ort::GetApi();
  watched = *vendor;
  watched.CreateSessionFromArray = create_session;
  watched.Run = run_session;
  Ort::InitApi(&watched);
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

// What a competent user writes for a session with one input and one output: a call on buffers that exist.
class ByHand {
 public:
  explicit ByHand(OrtSession* session) : session_(session) {
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

  // Into an array that ONNX Runtime makes.
  void run(const gantk::TensorView& from) {
    const char* inputs[] = {input_.c_str()};
    const char* outputs[] = {output_.c_str()};
    const Ort::Value feed = wrap(from.data, from.dtype, from.shape);
    session_.Run(Ort::RunOptions(nullptr), inputs, &feed, 1, outputs, 1);
  }

 private:
  Ort::Value wrap(const void* data, gantk::DType dtype, const gantk::Shape& shape) const {
    const std::size_t bytes = static_cast<std::size_t>(shape.count()) * gantk::bytes_of(dtype);
    return Ort::Value::CreateTensor(memory_, const_cast<void*>(data), bytes, shape.sizes().data(), shape.rank(),
                                    gantk::onnxruntime::element_of(dtype));
  }

  Ort::UnownedSession session_;
  Ort::MemoryInfo memory_ = Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault);
  std::string input_, output_;
};

Ort::SessionOptions one_thread() {
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  return options;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 != 0 ? values[half] : (values[half - 1] + values[half]) / 2;
}

// One call: its time in this thread, how much of its time was around the vendor's `Run`, and its allocations.
struct Sample {
  double whole_us, around_us;
  long allocated;
};

template <class Call>
Sample sample(Call call) {
  const long allocated = allocations;
  const double before_us = thread_us();
  const auto start = Clock::now();
  call();
  const double wall_us = us_since(start);
  return {thread_us() - before_us, wall_us - inside_us, allocations - allocated};
}

// A round is a bound call and four others, each way first in every other, so that drift and what a call leaves in the caches meet both
// alike; its difference is the mean of gantk's two less that of the other two.
Figures compare_calls(const std::string& bundle, int rounds, const gantk::Shape& shape) {
  watch_vendor();
  const auto runner = gantk::Runner::open(bundle, {.backend = "onnxruntime", .form = "plain", .threads = 1});
  ByHand by_hand(last_session);
  const gantk::Tensor input = make_input(runner.inputs().at(0).dtype, shape);
  const std::string name = runner.inputs()[0].name, result = runner.outputs().at(0).name;
  gantk::Outputs made = runner.run({{name, input.view()}});
  const gantk::MutableTensorView output = made[result].mutable_view();
  const auto hand = [&] { return sample([&] { by_hand.run(input.view(), output); }); };
  const auto ours = [&] {
    return sample([&] { runner.run({{name, input.view()}}, {{result, output}}); });
  };
  gantk::Bound bound_run = runner.bind({{name, input.view()}}, {{result, output}});
  const auto bound = [&] { return sample([&] { bound_run.run(); }); };
  Sample h[2], g[2], b;
  std::vector<double> bound_us, hand_us, gantk_us, difference_us, hand_around_us, gantk_around_us;
  for (int i = -2; i < rounds; ++i) {
    if (i % 2 == 0) h[0] = hand(), g[0] = ours(), g[1] = ours(), h[1] = hand();
    else g[0] = ours(), h[0] = hand(), h[1] = hand(), g[1] = ours();
    b = bound();
    if (i < 0) continue;
    for (const Sample& each : h) hand_us.push_back(each.whole_us), hand_around_us.push_back(each.around_us);
    for (const Sample& each : g) gantk_us.push_back(each.whole_us), gantk_around_us.push_back(each.around_us);
    bound_us.push_back(b.whole_us);
    difference_us.push_back((g[0].whole_us + g[1].whole_us - h[0].whole_us - h[1].whole_us) / 2);
  }
  return {{"by_hand_us", median(hand_us)},
          {"gantk_us", median(gantk_us)},
          {"bound_us", median(bound_us)},
          {"difference_us", median(difference_us)},
          {"by_hand_around_us", median(hand_around_us)},
          {"gantk_around_us", median(gantk_around_us)},
          {"by_hand_allocations", static_cast<double>(h[1].allocated)},
          {"gantk_allocations", static_cast<double>(g[1].allocated)},
          {"bound_allocations", static_cast<double>(b.allocated)}};
}

Figures measure_start(const std::string& who, const std::string& bundle, const std::string& file,
                      const gantk::Shape& shape) {
  const bool is_float = shape.rank() == 2;
  const gantk::Tensor input = make_input(is_float ? gantk::DType::float32 : gantk::DType::uint8, shape);
  gantk::onnxruntime::library();  // Both want it loaded; neither is charged for it.
  const auto start = Clock::now();
  double first_us = 0;
  const auto finish = [&](auto run) {
    run();
    first_us = us_since(start);
    for (int i = 0; i < 5; ++i) run();  // Its memory is steady after them.
  };
  std::optional<gantk::Runner> runner;
  std::optional<Ort::Env> env;
  std::optional<Ort::Session> session;
  std::optional<ByHand> by_hand;
  if (who == "gantk") {
    runner = gantk::Runner::open(bundle, {.backend = "onnxruntime", .form = "plain", .threads = 1});
    const std::string name = runner->inputs().at(0).name;
    finish([&] { runner->run({{name, input.view()}}); });
  } else {
    env.emplace(ORT_LOGGING_LEVEL_ERROR, "by hand");
    session.emplace(*env, file.c_str(), one_thread());
    by_hand.emplace(*session);
    finish([&] { by_hand->run(input.view()); });
  }
  const std::size_t resident = resident_bytes();
  const auto hashed = Clock::now();
  gantk::Sha256 hash;
  gantk::read_bytes(file, std::int64_t{1} << 40, &hash);
  hash.hex();
  return {{"first_result_ms", first_us / 1000},
          {"hash_ms", us_since(hashed) / 1000},
          {"resident_bytes", static_cast<double>(resident)}};
}

void print(const Figures& figures) {
  const char* between = "{";
  for (const auto& [name, value] : figures) {
    std::printf("%s\"%s\": %.17g", between, name, value);
    between = ", ";
  }
  std::printf("}\n");
}

}  // namespace

int main(int count, char** given) {
  const std::vector<std::string> words(given + 1, given + count);
  try {
    const auto& library = gantk::onnxruntime::library();
    if (library.version.empty()) throw gantk::Error("ONNX Runtime does not work here: " + library.fault, {}, library.hint);
    const auto axes = [&](std::size_t from) {
      return parse_axes({words.begin() + static_cast<std::ptrdiff_t>(from), words.end()});
    };
    if (words.size() > 3 && words[0] == "calls") {
      print(compare_calls(words[1], std::stoi(words[2]), axes(3)));
    } else if (words.size() > 4 && words[0] == "start") {
      print(measure_start(words[1], words[2], words[3], axes(4)));
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

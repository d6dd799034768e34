// SPDX-License-Identifier: Apache-2.0
// gantk-bench-worker: the C++ runner as one contender of `gantk bench`, which starts it. The protocol is that of
// toolkit/gantk/bench/protocol.py: one JSON object a line, over standard input and output.
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "cuda.hpp"
#include "gantk/runner.hpp"
#include "npz.hpp"

namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

double ms_since(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// The resident memory of this process now and at its highest.
Json resident_memory() {
  std::ifstream status("/proc/self/status");
  std::map<std::string, std::size_t> kib;
  for (std::string line; std::getline(status, line);) {
    const std::size_t colon = line.find(':');
    if (line.starts_with("VmRSS") || line.starts_with("VmHWM")) {
      kib[line.substr(0, colon)] = std::stoul(line.substr(colon + 1));
    }
  }
  return {{"rss_bytes", kib["VmRSS"] * 1024}, {"peak_rss_bytes", kib["VmHWM"] * 1024}};
}

// A copy of an array in GPU memory, and back.
gantk::Tensor on_gpu(const gantk::Tensor& here) {
  const gantk::cuda::Current current;
  gantk::Tensor there = gantk::cuda::make_tensor(here.dtype(), here.shape(), "an input");
  const auto address = reinterpret_cast<gantk::cuda::Address>(there.view().data);
  gantk::cuda::copy_in(address, here.view().data, here.view().size_bytes(), nullptr);
  gantk::cuda::synchronize(nullptr);
  return there;
}
gantk::Tensor in_main_memory(const gantk::Tensor& there) {
  const gantk::cuda::Current current;
  gantk::Tensor here(there.dtype(), there.shape());
  const auto address = reinterpret_cast<gantk::cuda::Address>(there.view().data);
  gantk::cuda::copy_out(here.mutable_view().data, address, here.view().size_bytes(), nullptr);
  gantk::cuda::synchronize(nullptr);
  return here;
}

// What the worker holds between requests.
class Worker {
 public:
  Json load(const Json& request) {
    const Json& options = request.at("options");
    const auto text = [&](const char* key) { return options.value(key, Json()).is_string() ? options[key] : Json(""); };
    const auto baseline = resident_memory()["rss_bytes"];
    const auto start = Clock::now();
    runner_ = gantk::Runner::open(options.at("path").get<std::string>(), {
                                                                             .backend = text("backend"),
                                                                             .precision = text("precision"),
                                                                             .device = text("device"),
                                                                             .form = text("form"),
                                                                             .threads = options.value("threads", 0),
                                                                         });
    return {
        {"import_ms", 0.0},
        {"open_ms", ms_since(start)},
        {"baseline_rss_bytes", baseline},
        {"backend", "cpp"},
        {"version", runner_->version()},
        {"device", name_of(runner_->device())},
        {"precision", runner_->precision()},
        {"file_precision", runner_->file_precision()},
    };
  }

  // Inputs, and memory for outputs of the shapes that they lead to, where the network runs: an application reuses its
  // buffers, and one on a GPU has them there.
  Json feed(const Json& request) {
    if (!runner_) throw gantk::Error("a worker wants `load` first");
    bound_.reset();
    inputs_ = gantk::npz::read(request.at("path"));
    std::vector<gantk::Feed> feeds;
    for (auto& [name, tensor] : inputs_) {
      if (runner_->device() == gantk::Device::cuda) tensor = on_gpu(tensor);
      feeds.push_back({name, tensor.view()});
    }
    bound_ = runner_->bind(feeds);
    return Json::object();
  }

  Json run(const Json& request) {
    const int most = request.at("most");
    time_calls(request.at("warmup_s"), most);
    return {{"ns", time_calls(request.at("block_s"), most)}};
  }

  // Of this process, and of the GPU by what the runner says of itself, where it does.
  Json memory() const {
    Json found = resident_memory();
    const auto held = runner_ ? runner_->memory_bytes() : std::nullopt;
    found["gpu_bytes"] = held ? Json(held->engine + held->activations + held->buffers) : Json();
    return found;
  }

  Json output(const Json& request) {
    const auto durations = time_calls(0.0, 1);
    std::vector<std::pair<std::string, gantk::TensorView>> arrays;
    std::vector<gantk::Tensor> copies;
    for (const auto& [name, tensor] : bound_->outputs()) {
      if (tensor.device() == gantk::Device::cuda) copies.push_back(in_main_memory(tensor));
      arrays.emplace_back(name, tensor.device() == gantk::Device::cuda ? copies.back().view() : tensor.view());
    }
    gantk::npz::write(request.at("path"), arrays);
    return {{"ns", durations.front()}};
  }

 private:
  // Calls for so long, at least once and at most so often; the duration of each, in ns.
  std::vector<long long> time_calls(double seconds, int most) {
    if (!bound_) throw gantk::Error("a worker wants `load` and `feed` first");
    std::vector<long long> durations;
    const auto deadline = Clock::now() + std::chrono::duration<double>(seconds);
    for (int i = 0; i < most; ++i) {
      const auto start = Clock::now();
      bound_->run();
      const auto end = Clock::now();
      durations.push_back(std::chrono::duration_cast<std::chrono::nanoseconds>(end - start).count());
      if (end >= deadline) break;
    }
    return durations;
  }

  std::optional<gantk::Runner> runner_;
  std::vector<std::pair<std::string, gantk::Tensor>> inputs_;
  std::optional<gantk::Bound> bound_;
};

Json answer(Worker& worker, const Json& request) {
  const std::string action = request.value("do", "");
  if (action == "load") return worker.load(request);
  if (action == "feed") return worker.feed(request);
  if (action == "run") return worker.run(request);
  if (action == "output") return worker.output(request);
  if (action == "memory") return worker.memory();
  throw gantk::Error("'" + action + "' is not a request; known are load, feed, run, output, memory, quit");
}

void serve(std::FILE* answers) {
  Worker worker;
  for (std::string line; std::getline(std::cin, line);) {
    Json said;
    try {
      const Json request = Json::parse(line);
      if (request.value("do", "") == "quit") {
        std::fputs("{}\n", answers);
        return;
      }
      said = answer(worker, request);
    } catch (const gantk::Error& error) {
      said = {{"error", error.text()}};
    } catch (const std::exception& error) {
      said = {{"error", error.what()}};
    }
    const std::string text = said.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
    std::fwrite(text.data(), 1, text.size(), answers);
    std::fflush(answers);
  }
}

}  // namespace

int main(int count, char** words) {
  ::setenv("ORT_DISABLE_TELEMETRY", "1", 0);  // What users run is told to nobody, unless they say so.
  if (count > 1) {
    // Ends with its parent, however that happens.
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (words[1] != std::to_string(::getppid())) {
      std::fputs("gantk-bench-worker is started by gantk bench, which tells it the number of its process\n", stderr);
      return 1;
    }
  }
  // Libraries that print must not reach the pipe.
  std::FILE* answers = ::fdopen(::dup(1), "w");
  ::dup2(2, 1);
  serve(answers);
  std::fflush(answers);
  // Vendor libraries are known to hang or crash while they are torn down; nothing is left to save.
  ::_exit(0);
}

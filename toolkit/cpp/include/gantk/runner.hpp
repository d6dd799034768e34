// SPDX-License-Identifier: Apache-2.0
// A network, loaded and ready to run.
//
//   auto runner = gantk::Runner::open("mosaic.gantk", {.backend = "auto", .precision = "fp16"});
//   auto outputs = runner.run({{"picture", picture.view()}});
//   std::span<const std::uint8_t> pixels = outputs["stylized"].values<std::uint8_t>();
//
// Threads: `run`, `bind` and the questions are const and any number of threads may call them on one runner at the same
// time; opening, moving and closing a runner must not overlap with other calls on it. Inputs are read only during the
// call. A bound run is for one thread at a time. Each runner has weights of its own, so threads had better share one:
// - ONNX Runtime on a CPU does all runs at once, without a lock. They share the `Options::threads` of the runner; for many
//   callers 1 does most, for more would keep cores busy waiting for each other.
// - TensorRT does all runs at once, each in a context of its own. There are as many as threads, and bound runs, have
//   wanted at once; they stay, and `Runner::memory_bytes` tells what they take.
// - ONNX Runtime on a GPU has one stream, on which threads take turns.
// Bundles may be opened by several threads too. That reads environment variables, which are set before.
//
// A stream of the caller's, `Options::stream`, is there during every call that opens, runs or binds, and is not being
// captured then. It may go before the runner and what is bound: these end when what they have queued is done. Arrays in
// GPU memory that a queued run reads or writes stay until the stream has come past it. TensorRT's runs of other shapes
// than the one before wait for that one.
#pragma once

#include <cstddef>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "gantk/error.hpp"
#include "gantk/export.hpp"
#include "gantk/spec.hpp"
#include "gantk/tensor.hpp"

namespace gantk {

struct Options {
  std::string backend = "auto";  // "onnxruntime", ..., or "auto": the first that works here and computes it right
  std::string precision = {};    // "fp32", "fp16", ..., of engines also "tf32"; by default fp32 if there is one
  std::string device = {};       // "cpu" or "cuda"; by default the best that the backend has here
  std::string form = {};         // "plain", "rewritten", ...; by default the one measured faster on that backend
  std::string operators = {};    // ONNX Runtime's library of gantk's native operators, or none; the environment
                                 // variable GANTK_ONNXRUNTIME_OPS, where it is set, comes before it
  int threads = 0;               // for one operation on a CPU; 0: all cores that this process may use
  void* stream = nullptr;        // the caller's cudaStream_t, on which work is queued; null: one of the backend's,
                                 // which waits for what is on CUDA's default stream
};

// GPU memory that a runner holds, in bytes.
struct MemoryBytes {
  std::size_t engine = 0;       // the weights
  std::size_t activations = 0;  // what its contexts have for what is between the layers
  std::size_t buffers = 0;      // what it has copied inputs to, and copies outputs from
};

// An input, by name.
struct Feed {
  std::string_view name;
  TensorView tensor;
};

// Where an output is to be written, by name.
struct Target {
  std::string_view name;
  MutableTensorView tensor;
};

// What a run yielded.
class GANTK_API Outputs {
 public:
  struct Entry {
    std::string name;
    Tensor tensor;
  };

  Tensor& operator[](std::string_view name);  // throws Error where there is no such output
  std::vector<Entry>::iterator begin() noexcept { return entries_.begin(); }
  std::vector<Entry>::iterator end() noexcept { return entries_.end(); }
  std::vector<Entry>::const_iterator begin() const noexcept { return entries_.begin(); }
  std::vector<Entry>::const_iterator end() const noexcept { return entries_.end(); }
  std::size_t size() const noexcept { return entries_.size(); }

 private:
  friend class Runner;
  std::vector<Entry> entries_;
};

// A run that is bound to arrays, which stay where they are: the least that a call can cost. It may outlive the runner,
// whose `close` then gives nothing back before it ends.
class GANTK_API Bound {
 public:
  Bound(Bound&&) noexcept;
  Bound& operator=(Bound&&) noexcept;
  ~Bound();

  // Runs once, on what the inputs hold now; throws Error as Runner::run does.
  void run();

  // The arrays that `bind` made, which every run writes anew; none where it was given memory.
  Outputs& outputs();

 private:
  friend class Runner;
  struct State;
  explicit Bound(std::unique_ptr<State> state) noexcept;
  State& state() const;

  std::unique_ptr<State> state_;
};

class GANTK_API Runner {
 public:
  // Opens a bundle's folder. Throws Error where it is missing or damaged, there is no such variant, or no backend may
  // run it.
  static Runner open(const std::filesystem::path& path, const Options& options = {});

  Runner(Runner&&) noexcept;
  Runner& operator=(Runner&&) noexcept;
  ~Runner();

  const std::vector<TensorSpec>& inputs() const;
  const std::vector<TensorSpec>& outputs() const;
  const std::string& name() const;            // the network's
  const std::string& backend() const;         // e.g. "onnxruntime"
  const std::string& version() const;         // the backend's
  const std::string& precision() const;       // that it really computes in
  const std::string& file_precision() const;  // of the file it runs
  Device device() const;

  // What it holds now, of TensorRT's engines; nothing where the backend does not tell. Other threads may run meanwhile.
  std::optional<MemoryBytes> memory_bytes() const;

  // The backends that "auto" tried before this one, and why each did not do.
  const std::vector<std::pair<std::string, std::string>>& passed_over() const;

  // Runs the network once; every output is a fresh array where the network runs. Throws Error where an input is
  // missing, unknown, of the wrong dtype or shape, or has a value that is not finite, or the backend fails. When GPU
  // memory for a fresh array is taken, or given back, CUDA may wait for all work: a run into the caller's memory, or a
  // bound one, takes none.
  Outputs run(std::span<const Feed> feeds) const;
  Outputs run(std::initializer_list<Feed> feeds) const { return run(std::span(feeds.begin(), feeds.size())); }

  // The same into memory that is the caller's: nothing is allocated by gantk once a thread has done it before, and
  // nothing is copied, so that no two arrays may share memory. Outputs that are not named are not delivered.
  void run(std::span<const Feed> feeds, std::span<const Target> targets) const;
  void run(std::initializer_list<Feed> feeds, std::initializer_list<Target> targets) const {
    run(std::span(feeds.begin(), feeds.size()), std::span(targets.begin(), targets.size()));
  }

  // Binds a run to arrays: their names, shapes and places are looked at once, and on a GPU it becomes one CUDA graph
  // where it can be. The inputs hold values by then, for the network may run. The first makes the outputs' arrays.
  Bound bind(std::span<const Feed> feeds) const;
  Bound bind(std::span<const Feed> feeds, std::span<const Target> targets) const;
  Bound bind(std::initializer_list<Feed> feeds) const { return bind(std::span(feeds.begin(), feeds.size())); }
  Bound bind(std::initializer_list<Feed> feeds, std::initializer_list<Target> targets) const {
    return bind(std::span(feeds.begin(), feeds.size()), std::span(targets.begin(), targets.size()));
  }

  // Gives back what the backend holds. Closing twice is harmless; to run afterwards, or to ask for memory, is an error.
  void close() noexcept;

 private:
  struct State;
  friend class Bound;
  explicit Runner(std::shared_ptr<State> state) noexcept;
  const State& state() const;

  std::shared_ptr<State> state_;  // Bound runs share it.
};

}  // namespace gantk
